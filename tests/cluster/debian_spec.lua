--- Instances in Debian's layout, whose configuration is not in their data directory: adopted,
--- started and stopped, failed over, recovered, given back.

local certificates = require("tests.lib.certificates")
local cluster_of = require("tests.lib.cluster")
local debian = require("tests.lib.debian")
local namespace = require("tests.lib.namespace")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local read = place_of.read
-- In no file but the primary's own; a standby may not have less of the first.
local OWN = { max_locks_per_transaction = "77", work_mem = "5432kB" }

local function at(cluster, place, settings)
    return debian.new(cluster.place, { name = place.datadir:match("[^/]+$"), port = place.port,
        settings = settings })
end

local function exists(path)
    return read(path) ~= nil
end

-- What a server runs with.
local function has(server, wanted)
    for name, value in pairs(wanted) do
        assert.equal(value, server:value(("current_setting('%s')"):format(name)), name)
    end
end

local function fail_over(cluster)
    local mirror = cluster:mirror(0)
    cluster:primary(0):kill()
    cluster:wait_row({ dbid = mirror.dbid, role = "p" }, wait.SOON_S)
    wait.eventually("its promotion", wait.SOON_S, function()
        return mirror:value("pg_is_in_recovery()") == "f"
    end)
    return mirror
end

-- A second time nothing is left to be done.
local function move_mirror(cluster, place)
    local from = cluster:mirror(0)
    local line = ("%s|127.0.0.1|%%d|%%s"):format(from.hostname)
    local file = place:write("moves", line:format(from.port, from.datadir) .. " "
        .. line:format(place_of.free_port(), place:path("moved")) .. "\n")
    for _ = 1, 2 do
        cluster:must({ "movemirrors", "-a", "-i", file })
    end
    cluster:wait_healthy()
    assert.equal(place:path("moved"), cluster:mirror(0).datadir)
end

-- Where its configuration is stood in its directory.
local function loses_its_directory(cluster)
    local place, lost = cluster.place, cluster:mirror(0)
    namespace.tmpfs("/etc/postgresql", "1m")
    place:must({ "sh", "-ec", [[
        mkdir -p /etc/postgresql/15/lost; cd /etc/postgresql/15/lost
        echo manual >start.conf; echo "data_directory = '$1'" >postgresql.conf]], "sh",
        lost.datadir })
    lost:kill()
    cluster:wait_row({ dbid = lost.dbid, status = "d" }, wait.SOON_S)
    place:must({ "sh", "-c", 'rm -rf "$1"/*', "sh", lost.datadir })
    local result = cluster:moonrise({ "recoverseg", "-a" })
    assert.equal(0, result.code, result.out .. result.err)
    assert.matches("its configuration in /etc/postgresql/15/lost is not used any more",
        result.out .. result.err, 1, true)
    cluster:wait_healthy()
    has(cluster:mirror(0), { config_file = lost.datadir .. "/postgresql.conf" })
    namespace.unmount("/etc/postgresql")
end

local function files(list)
    local texts = {}
    for i, one in ipairs(list) do
        texts[i] = one:files()
    end
    return texts
end

local function refuses_autostart(cluster, one)
    local path = one.conf_dir .. "/start.conf"
    cluster.place:must({ "sed", "-i", "s/^manual/auto/", path })
    local result = cluster:moonrise({ "init", "--adopt", "--dry-run", cluster.file })
    assert.equal(1, result.code)
    assert.matches("something else starts it: " .. path .. " says auto", result.err, 1, true)
    cluster.place:must({ "sed", "-i", "s/^auto/manual/", path })
end

-- An adoption that fails, and leaves everything as it was.
local function taken_back(cluster, all, words)
    local before = files(all)
    local result = cluster:moonrise({ "init", "--adopt", "-a", "-b", "1", cluster.file })
    assert.equal(1, result.code)
    for _, text in ipairs(words) do
        assert.matches(text, result.out .. result.err, 1, true)
    end
    assert.matches("Everything is as before", result.out, 1, true)
    assert.same(before, files(all))
    for _, one in ipairs(all) do
        assert.is_nil(read(one.datadir .. "/moonrise.files"))
    end
end

-- Before a server is restarted, by what its own files say.
local function refuses_a_setting(cluster, all)
    local text = read(cluster.file)
    cluster.place:write("cluster.lua", (text:gsub('%["fsync"%]', '["wal_level"] = "some", %0')))
    taken_back(cluster, all, { "it would not start again",
        'invalid value for parameter "wal_level": "some"' })
    cluster.place:write("cluster.lua", text)
end

-- The certificate of its primary is not where the last mirror is made.
local function needs_a_certificate(cluster, all, certificate)
    local text = read(certificate)
    assert(os.remove(certificate))
    taken_back(cluster, all, { "it has ssl on, as its primary has, and would not start with these "
        .. "files: ", certificate })
    cluster.place:write(certificate:match("[^/]+$"), text)
end

describe("Debian's layout", function()
    local place, cluster, coordinator, primary
    -- Before anything is started.
    local alone = debian.there() and namespace.enter()

    local function make(options)
        cluster = cluster_of.new(place, options)
        coordinator = at(cluster, cluster.config.coordinator)
        primary = at(cluster, cluster.config.segments[1].primary, OWN)
        coordinator:start()
        return primary:start()
    end

    before_each(function()
        place = place_of.new()
    end)

    after_each(function()
        place:close()
    end)

    it("is adopted, and a mirror that has none gets its configuration", function()
        if not debian.there() then
            return pending("postgresql-common is not installed")
        end
        make({ settings = { max_connections = 30 } })
        local out = cluster:must({ "init", "--adopt", "-a", cluster.file })
        cluster:wait_healthy()
        assert.matches("The configuration of dbid 2 stays in " .. primary.conf_dir, out, 1, true)
        assert.equal(("include_if_exists '%s/moonrise.conf'\n"):format(primary.datadir),
            read(primary.conf_dir .. "/postgresql.conf"):match("[^\n]*\n$"))
        assert.matches("^# moonrise begins", read(primary.conf_dir .. "/pg_hba.conf"))
        assert.is_false(exists(primary.datadir .. "/postgresql.conf"))
        has(cluster:mirror(0), OWN)

        cluster:must({ "stop", "-ar" })
        cluster:wait_healthy()
        has(cluster:primary(0), { config_file = primary.conf_dir .. "/postgresql.conf",
            hba_file = primary.conf_dir .. "/pg_hba.conf", data_directory = primary.datadir })
        cluster:primary(0):sql("create table ledger as select 1 as i")

        move_mirror(cluster, place)
        has(cluster:mirror(0), OWN)
        cluster:watched()
        local mirror = fail_over(cluster)
        has(mirror, OWN)
        has(mirror, { hba_file = mirror.datadir .. "/pg_hba.conf", external_pid_file = "",
            cluster_name = "" })
        mirror:sql("insert into ledger values (2)")
        primary:set({ work_mem = "6543kB" })
        cluster:recover()
        cluster:must({ "recoverseg", "-ar" })
        cluster:wait_healthy(nil, true)
        -- It has its own again, and what was changed there.
        has(cluster:primary(0), { work_mem = "6543kB", max_locks_per_transaction = "77",
            config_file = primary.conf_dir .. "/postgresql.conf" })
        assert.equal("2", cluster:primary(0):value("select count(*) from ledger"))
        cluster:unwatch(30)
        cluster:must({ "recoverseg", "-a" })
    end)

    it("of a mirror stays its own, and all of it is given back", function()
        if not debian.there() then
            return pending("postgresql-common is not installed")
        end
        local server = make({ segments = 2, settings = { max_connections = 30 } })
        local standby = at(cluster, cluster.config.segments[1].mirror, OWN)
        standby:follow(server)
        standby:start()
        local certificate = certificates.authority(place, "spec"):sign("server")
        local other = at(cluster, cluster.config.segments[2].primary, { ssl = "on",
            ssl_cert_file = certificate.cert, ssl_key_file = certificate.key })
        other:start()
        local all = { coordinator, primary, standby, other }
        refuses_autostart(cluster, primary)
        refuses_a_setting(cluster, all)
        needs_a_certificate(cluster, all, certificate.cert)

        cluster:must({ "init", "--adopt", "-a", cluster.file })
        cluster:wait_healthy()
        has(cluster:mirror(1), { ssl = "on" })
        standby:set({ max_locks_per_transaction = "64" })
        cluster:watched()
        cluster:mirror(0):kill()
        cluster:wait_row({ content = 0, role = "m", status = "d" }, wait.SOON_S)
        cluster:must({ "recoverseg", "-a", "--differential" })
        cluster:wait_healthy(nil, true)
        local own = { config_file = standby.conf_dir .. "/postgresql.conf",
            hba_file = standby.conf_dir .. "/pg_hba.conf", max_locks_per_transaction = "77" }
        has(cluster:mirror(0), own)
        has(fail_over(cluster), own)
        cluster:recover()
        has(cluster:mirror(0), { config_file = primary.conf_dir .. "/postgresql.conf" })
        if alone then
            loses_its_directory(cluster)
        end
        cluster:unwatch(30)
    end)
end)

teardown(place_of.close_all)
