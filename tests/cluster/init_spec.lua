--- `moonrise init` on real servers: what it makes, what it refuses, and that it leaves nothing
--- behind.

local cluster_of = require("tests.lib.cluster")
local pg = require("tests.lib.pg")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local function exists(path)
    return os.execute("test -e " .. place_of.quote(path)) == 0
end

local function datadirs(cluster)
    local list = {}
    local function add(place)
        list[#list + 1] = place and place.datadir or nil
    end
    add(cluster.config.coordinator)
    add(cluster.config.standby)
    for _, segment in ipairs(cluster.config.segments) do
        add(segment.primary)
        add(segment.mirror)
    end
    return list
end

-- Servers work in their data directories, also after those were removed.
local function running(place)
    local pipe = io.popen("find /proc/[0-9]*/cwd -maxdepth 0 -lname " ..
        place_of.quote(place.dir .. "/*") .. " 2>/dev/null")
    local out = pipe:read("*a")
    pipe:close()
    return out ~= ""
end

local function nothing_left(place, cluster)
    assert.is_false(running(place))
    for _, dir in ipairs(datadirs(cluster)) do
        assert.is_false(exists(dir), dir)
    end
    assert.is_false(exists(cluster:state_file("passfile")))
end

-- cluster.lua again, after `change` has had its way with it.
local function rewrite(cluster, from, to)
    local text = place_of.read(cluster.file)
    local changed, n = text:gsub(from, to)
    assert.equal(1, n, from)
    cluster.place:write("cluster.lua", changed)
end

describe("init", function()
    local place

    before_each(function()
        place = place_of.new()
    end)

    after_each(function()
        place:close()
    end)

    it("takes a host's name for its address, as the README does", function()
        local cluster = cluster_of.new(place, { standby = true })
        local text = place_of.read(cluster.file):gsub('%["address"%] = "127.0.0.1",', "")
        place:write("cluster.lua", text)
        cluster:must({ "init", "-a", cluster.file })
        cluster:must({ "state", "-e" })
        for _, inst in ipairs(cluster:catalog("select address from gp_segment_configuration")) do
            assert.equal("localhost", inst.address)
        end
    end)

    it("refuses an address that does not exist before it makes anything", function()
        local cluster = cluster_of.new(place)
        rewrite(cluster, '(%["coordinator"%] = {\n%s*%["address"%] = )"127.0.0.1"',
            '%1"no-such-host.invalid"')
        local result = cluster:moonrise({ "init", "-a", cluster.file })
        assert.equal(2, result.code)
        assert.matches("address no%-such%-host.invalid: ", result.err)
        nothing_left(place, cluster)
    end)

    it("makes servers, roles, mirrors and standby, all of it in sync", function()
        local cluster = cluster_of.new(place, { segments = 2, standby = true,
            hba = { "host all all 127.0.0.1/32 scram-sha-256" } })
        cluster:init()
        for _, row in ipairs(cluster:rows()) do
            assert.equal("su" .. row.preferred_role, row.mode .. row.status .. row.role)
        end
        local primary, mirror = cluster:primary(1), cluster:mirror(1)
        assert.equal("on", primary:value("current_setting('data_checksums')"))
        assert.equal("f",
            primary:value("(select rolsuper from pg_roles where rolname = 'moonrise')"))
        assert.equal("0", primary:value("(select count(*) from pg_hba_file_rules " ..
            "where auth_method = 'trust')"))
        assert.matches("^SCRAM%-SHA%-256%$1:", primary:value(
            "(select rolpassword from pg_authid where rolname = 'moonrise')"))
        assert.equal("mr_slot_" .. mirror.dbid,
            primary:value("(select string_agg(slot_name, ',') from pg_replication_slots)"))
        assert.equal("0", mirror:value("(select count(*) from pg_replication_slots)"))
        assert.matches("\nlisten_addresses = ''\n",
            place_of.read(primary.datadir .. "/moonrise.conf"))
        assert.equal("600\n", place:must({ "stat", "-c", "%a", cluster:state_file("passfile") }))
        assert.equal("running", cluster:catalog("select state from cluster_state")[1].state)
        assert.same({}, cluster:catalog("select * from content_lease"))
    end)

    it("makes a cluster without mirrors and standby", function()
        local cluster = cluster_of.new(place, { segments = 1, mirrors = false })
        local out = cluster:must({ "init", "-a", cluster.file })
        assert.is_nil(out:find("Making mirrors", 1, true), out)
        assert.equal(2, #cluster:rows())
        cluster:primary(0):sql("create table t (i int)")
    end)

    it("encrypts where the cluster asks for it", function()
        local cert, key = place:path("server.crt"), place:path("server.key")
        place:must({ "openssl", "req", "-new", "-x509", "-days", "2", "-nodes", "-subj",
            "/CN=localhost", "-out", cert, "-keyout", key })
        place:must({ "chmod", "600", key })
        local cluster = cluster_of.new(place, { segments = 1 })
        rewrite(cluster, "return {", ("return { tls = { cert = %q, key = %q },"):format(cert, key))
        cluster:init()
        assert.same({ { ssl = "t" } }, cluster:primary(0):sql("select ssl from pg_stat_ssl " ..
            "join pg_stat_replication using (pid)"))
    end)

    it("makes databases whose foreign servers follow the primaries, in directories of long names",
        function()
            local cluster = cluster_of.new(place, { segments = 1 })
            local long = ("deep/"):rep(20)
            for _, name in ipairs({ "coordinator", "primary0", "mirror0" }) do
                rewrite(cluster, place:path(name):gsub("%p", "%%%0"), place:path(long .. name))
            end
            cluster.datadir = place:path(long .. "coordinator")
            rewrite(cluster, "return {", "return { fdw = { databases = { 'sales' } },")
            cluster:init()
            local options = cluster:coordinator():value("(select srvoptions::text from " ..
                "pg_foreign_server where srvname = 'seg0')", { dbname = "sales" })
            assert.matches("port=" .. cluster:primary(0).port .. "," .. cluster:mirror(0).port,
                options, 1, true)
            assert.same({ { dbname = "sales" } }, cluster:catalog("select * from fdw_database"))
            cluster:must({ "stop", "-ar" })
            cluster:wait_healthy()
        end)

    it("says what it would make, and makes nothing", function()
        local cluster = cluster_of.new(place, { segments = 1 })
        local out = cluster:must({ "init", "--dry-run", cluster.file })
        assert.matches(cluster.config.segments[1].mirror.datadir, out, 1, true)
        nothing_left(place, cluster)
        assert.is_false(exists(place:path("home/state")))
        local asked = cluster:moonrise({ "init", cluster.file })
        assert.equal(2, asked.code)
        assert.matches("use -a", asked.err, 1, true)
        nothing_left(place, cluster)
    end)

    it("makes pairs whose commits do not wait, and says that they are not in sync", function()
        local cluster = cluster_of.new(place, { segments = 1,
            settings = { synchronous_commit = "local" } })
        local out = cluster:must({ "init", "-a", cluster.file })
        assert.matches("made, not in sync: its synchronous_commit is local", out, 1, true)
        for _, row in ipairs(cluster:rows()) do
            assert.equal("nu", row.mode .. row.status)
        end
        assert.same({}, cluster:catalog("select * from content_lease"))
    end)

    it("says why it cannot keep another init away", function()
        local cluster = cluster_of.new(place, { segments = 1 })
        place:write("home/state", "in the way")
        local result = cluster:moonrise({ "init", "-a", cluster.file })
        assert.equal(1, result.code)
        assert.is_nil(result.err:find("another init", 1, true), result.err)
        assert.matches("home/state", result.err, 1, true)
        place:must({ "rm", place:path("home/state") })
        nothing_left(place, cluster)
    end)

    it("refuses a directory that is not empty before it makes anything", function()
        local cluster = cluster_of.new(place, { segments = 1 })
        local mirror = cluster.config.segments[1].mirror.datadir
        place:must({ "mkdir", mirror })
        place:must({ "touch", mirror .. "/thesis.txt" })
        local result = cluster:moonrise({ "init", "-a", cluster.file })
        assert.equal(1, result.code)
        assert.matches(mirror .. " is not empty", result.err, 1, true)
        place:must({ "test", "-e", mirror .. "/thesis.txt" })
        place:must({ "rm", "-r", mirror })
        nothing_left(place, cluster)
    end)

    it("refuses a port that is in use, and what the file says wrong", function()
        local cluster = cluster_of.new(place, { segments = 1 })
        local server = pg.new(place, { settings = { listen_addresses = "127.0.0.1",
            port = cluster.config.coordinator.port } })
        server.port = cluster.config.coordinator.port
        server:start()
        local result = cluster:moonrise({ "init", "-a", cluster.file })
        assert.equal(1, result.code)
        assert.matches("port " .. server.port .. " is in use", result.err, 1, true)
        server:stop()
        rewrite(cluster, '%["port"%] = ' .. cluster.config.segments[1].mirror.port, "prot = 7")
        result = cluster:moonrise({ "init", "-a", cluster.file })
        assert.equal(2, result.code)
        assert.matches("segments[1].mirror.prot: unknown key", result.err, 1, true)
        assert.equal(2, cluster:moonrise({ "init", "-a" }).code)
        rewrite(cluster, "prot = 7", '["port"] = ' .. cluster.config.segments[1].mirror.port)
        rewrite(cluster, '%["name"%]', 'policies = { failover = "/nowhere/mine.lua" }, ["name"]')
        result = cluster:moonrise({ "init", "-a", cluster.file })
        assert.equal(2, result.code)
        assert.matches("policies.failover: .*/nowhere/mine.lua", result.err)
        nothing_left(place, cluster)
    end)

    it("takes everything back when it fails early or late", function()
        local early = cluster_of.new(place, { segments = 1,
            settings = { shared_buffers = "as much as there is" } })
        local result = early:moonrise({ "init", "-a", early.file })
        assert.equal(1, result.code)
        assert.matches("Everything is as before", result.out, 1, true)
        assert.matches('parameter "shared_buffers": "as much as there is"', result.err, 1, true)
        nothing_left(place, early)

        local late = cluster_of.new(place, { segments = 2 })
        place:must({ "mkdir", "-p", place:path("closed") })
        late.config.segments[2].mirror.datadir = place:path("closed/mirror")
        rewrite(late, place:path("mirror1"):gsub("%p", "%%%0"), place:path("closed/mirror"))
        place:must({ "chmod", "500", place:path("closed") })
        place:must({ "mkdir", late.config.segments[1].primary.datadir })
        result = late:moonrise({ "init", "-a", late.file })
        assert.equal(1, result.code)
        assert.matches("closed", result.err, 1, true)
        place:must({ "chmod", "700", place:path("closed") })
        place:must({ "rmdir", late.config.segments[1].primary.datadir })
        nothing_left(place, late)
    end)

    -- Kills an init at a stage of its work, and waits until its agents have ended.
    local function killed_at(cluster, stage)
        local program = cluster:start({ "init", "-a", cluster.file })
        program:says(stage, 120)
        program:kill("KILL")
        program:wait(wait.SOON_S)
        wait.eventually("the agent's work to end", wait.SOON_S, function()
            return cluster:moonrise({ "init", "--dry-run", cluster.file }).out
                :find("Cluster " .. cluster.config.name, 1, true)
        end)
    end

    local STAGES = { "Making mirrors" }
    if os.getenv("MOONRISE_CAMPAIGN") then
        STAGES = { "Making servers", "Making the catalog", "Making mirrors", "is made and" }
    end
    for i, stage in ipairs(STAGES) do
        it("is run again after it was killed: " .. stage, function()
            local cluster = cluster_of.new(place, { segments = 1, standby = true })
            killed_at(cluster, stage)
            assert.is_true(i > 1 or running(place))
            local result = cluster:moonrise({ "init", "-a", cluster.file })
            assert.is_true(result.code == 0 or result.err:find("exists already", 1, true) ~= nil,
                result.err)
            cluster:wait_healthy()
        end)
    end

    -- Another cluster in the place of what an init has made that was killed: with nothing of
    -- moonrise's in it, or as another run of moonrise has made it there.
    it("does not remove what somebody has put in the place of what it made", function()
        local cluster = cluster_of.new(place, { segments = 1, mirrors = false })
        local dir = cluster.config.segments[1].primary.datadir
        killed_at(cluster, "Making the catalog")
        place:must({ "mv", dir, dir .. ".made" })
        local function refused()
            for _, more in ipairs({ "-a", "--dry-run" }) do
                local result = cluster:moonrise({ "init", more, cluster.file })
                assert.equal(1, result.code, result.out)
                assert.matches(dir .. " is not empty", result.err, 1, true)
            end
            assert.is_true(exists(dir .. "/precious"))
            assert.is_true(exists(cluster.config.coordinator.datadir .. "/PG_VERSION"))
        end
        place:must({ "mv", pg.new(place, { name = "foreign" }).datadir, dir })
        place:must({ "touch", dir .. "/precious" })
        refused()
        for _, name in ipairs({ "moonrise.epoch", "moonrise.lock" }) do
            place:must({ "cp", dir .. ".made/" .. name, dir .. "/" .. name })
        end
        refused()
        place:write("made", "maker = 'somebody'\n")
        place:must({ "mv", place:path("made"), dir .. "/moonrise.made" })
        refused()
        place:must({ "mv", dir, dir .. ".other" })
        place:must({ "mv", dir .. ".made", dir })
        cluster:init()
        assert.is_true(exists(dir .. ".other/precious"))
    end)

    it("keeps the names of clusters apart", function()
        local cluster = cluster_of.new(place, { segments = 1, mirrors = false })
        cluster:init()
        local other = cluster_of.new(place, { segments = 1, mirrors = false })
        for _, name in ipairs({ "coordinator", "primary0" }) do
            rewrite(other, '"' .. place:path(name):gsub("%p", "%%%0") .. '"',
                '"' .. place:path("other-" .. name) .. '"')
        end
        local result = other:moonrise({ "init", "-a", other.file })
        assert.equal(1, result.code)
        assert.matches("exists already", result.err, 1, true)
        assert.equal(2, #cluster:rows())
    end)
end)
