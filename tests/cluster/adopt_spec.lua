--- `moonrise init --adopt` on servers that run: what it takes over, what it leaves alone, what it
--- refuses by name, and that a failure leaves them as they were.

local cluster_of = require("tests.lib.cluster")
local copy = require("tests.lib.copy")
local dice_of = require("tests.lib.dice")
local namespace = require("tests.lib.namespace")
local pg = require("tests.lib.pg")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local read = place_of.read
local ROUNDS = os.getenv("MOONRISE_CAMPAIGN") and 40 or 1
-- A server that writes down what it is asked, and keeps it.
local LOUD = { log_statement = "all", log_min_duration_statement = "0",
    shared_preload_libraries = "pg_stat_statements" }
-- About as long as it takes to take an adoption back and begin it again.
local SPAN_S = os.getenv("MOONRISE_CAMPAIGN") and 5 or 1.5

-- A running server at a place of cluster.lua, with the socket where its maker put it.
local function running(cluster, at, settings, line)
    local all = copy({ port = at.port, listen_addresses = "127.0.0.1" }, settings)
    -- Each content is a system of its own, also among copies of one template. The second segment's
    -- files may be read by the group.
    local second = cluster.config.segments[2]
    local server = pg.new(cluster.place, { name = at.datadir:match("[^/]+$"), settings = all,
        initdb = at == cluster.config.coordinator and { "--no-instructions" }
            or second and at == second.primary and { "-g" } or nil })
    server.port = at.port
    server:start({ line = line })
    return server
end

-- A standby made by hand, by pg_basebackup -R, with a slot of its own.
local function standby(primary, at, settings)
    local all = copy({ port = at.port, listen_addresses = "127.0.0.1" }, settings)
    local server = pg.standby(primary, { name = at.datadir:match("[^/]+$"), settings = all,
        slot = "by_hand" })
    server.port = at.port
    server:start()
    wait.eventually("the standby to stream", wait.SOON_S, function()
        return primary:value("select count(*) from pg_stat_replication") == "1"
    end)
    return server
end

-- It has a past: it was a standby, and was promoted. As if by initdb --allow-group-access.
local function promoted_once(server)
    server:stop()
    server.place:must({ "chmod", "-R", "g+rX", server.datadir })
    server.place:must({ "touch", server.datadir .. "/standby.signal" })
    server:start()
    server:sql("select pg_promote()")
end

-- Somebody else's replica, by a slot of its own.
local function somebody_receives(server)
    local place = server.place
    server:sql("select pg_create_physical_replication_slot('others', true)")
    place:must({ "mkdir", place:path("received") })
    place:start({ server.bin .. "/pg_receivewal", "-D", place:path("received"), "-S", "others",
        "-h", server.host, "-p", server.port, "--no-loop" })
    wait.eventually("the receiver to stream", wait.SOON_S, function()
        return server:value("select active from pg_replication_slots") == "t"
    end)
end

-- What an adoption changes on a server, and what a server that was not restarted keeps.
local function shape(server)
    local function file(name)
        return read(server.datadir .. "/" .. name)
    end
    return {
        files = server.place:must({ "find", server.datadir, "-maxdepth", "1", "!", "-name",
            "postmaster.*", "!", "-path", server.datadir, "-printf", "%f %m\n" }),
        line = server:value("(select string_agg(name || '=' || setting, ' ' order by name) "
            .. "from pg_settings where source = 'command line')"),
        pid = server:pid(), hba = file("pg_hba.conf"), conf = file("postgresql.conf"),
        auto = file("postgresql.auto.conf"):gsub("^#[^\n]*\n#[^\n]*\n", ""),
        own = file("moonrise.conf"), epoch = file("moonrise.epoch"), json = file("moonrise.json"),
        before = file("moonrise.before"),
        roles = server:value("select count(*) from pg_roles where rolname = 'moonrise'"),
        databases = server:value("select string_agg(datname, ' ') from pg_database"),
        slots = server:value("select string_agg(slot_name, ' ') from pg_replication_slots"),
        names = server:value("current_setting('synchronous_standby_names')"),
    }
end

-- All of them, without what an adoption that was taken back leaves: the lock file, and the log that
-- a server which was started anew writes.
local function shapes(servers)
    local list = {}
    for i, server in ipairs(servers) do
        list[i] = shape(server)
        local lines = {}
        for line in list[i].files:gmatch("[^\n]+") do
            if not line:find("^moonrise%.lock ") and not line:find("^log ") then
                table.insert(lines, line)
            end
        end
        table.sort(lines)
        list[i].files = lines
    end
    return list
end

-- What a backup by the group could not read.
local function closed_files(server)
    return server.place:must({ "find", server.datadir, "-maxdepth", "1", "-type", "f", "!",
        "-name", "postmaster.*", "!", "-perm", "640" })
end

local function adopt(cluster, ...)
    return cluster:moonrise({ "init", "--adopt", "-a", cluster.file, ... }, { timeout_s = 120 })
end

local function must_adopt(cluster)
    return cluster:must({ "init", "--adopt", "-a", cluster.file }, { timeout_s = 120 })
end

-- A running server is refused, by these words, before anything is touched.
local function refused(cluster, server, words)
    local before = shape(server)
    local result = adopt(cluster)
    assert.equal(1, result.code, result.out)
    assert.matches(words, result.err, 1, true)
    assert.same(before, shape(server))
end

-- cluster.lua again, with another text at one place.
local function rewrite(cluster, from, to)
    local text, n = read(cluster.file):gsub((from:gsub("%p", "%%%0")), (to:gsub("%%", "%%%%")))
    assert.equal(1, n, from)
    cluster.place:write("cluster.lua", text)
end

-- Rows are written through a failover; none that was acknowledged is missing.
local function keeps_rows(cluster)
    local watch = cluster:watched()
    local old = cluster:primary(0)
    local mirror = cluster:mirror(0)
    old:sql("create table ledger (i int primary key)")
    for i = 1, 20 do
        old:sql("insert into ledger values (" .. i .. ")")
    end
    old:kill()
    cluster:wait_row({ dbid = mirror.dbid, role = "p" }, wait.SOON_S)
    local new = cluster:primary(0)
    assert.equal("20 20", new:value("select count(*) || ' ' || max(i) from ledger"))
    new:sql("insert into ledger values (21)")
    cluster:recover()
    cluster:must({ "recoverseg", "-ar" })
    cluster:wait_healthy(nil, true)
    assert.equal("21", cluster:primary(0):value("select count(*) from ledger"))
    watch:kill()
    watch:wait(wait.SOON_S)
end

-- The question stands while somebody changes a server.
local function refuses_what_has_changed(cluster, server)
    local program, answer = cluster:ask({ "init", "--adopt", cluster.file })
    program:says("Continue with the adoption", wait.SOON_S)
    server:sql("select pg_create_physical_replication_slot('theirs')")
    local before = shape(server)
    answer("y")
    program:says("the servers are not as the plan shows them", wait.SOON_S)
    program:wait(wait.SOON_S)
    assert.same(before, shape(server))
    server:sql("select pg_drop_replication_slot('theirs')")
end

-- A database of that name which an adoption has not made is not what is taken away. The adoption's
-- record, which is found once more afterwards, comes back.
local function leaves_a_database(cluster, coordinator)
    local path = "home/state/moonrise/" .. cluster.config.name .. "/cluster.json"
    local record = read(cluster.place:path(path))
    cluster:coordinator():sql("drop database moonrise with (force)")
    cluster:coordinator():sql("create database moonrise")
    local result = adopt(cluster)
    assert.equal(1, result.code)
    assert.matches("Everything is as before", result.out, 1, true)
    assert.matches("it has a database moonrise already", result.err, 1, true)
    coordinator:sql("drop database moonrise")
    cluster.place:write(path, record)
    return record
end

-- The record of a run that was killed, of another name, is found again when its servers are
-- somebody else's.
local function leaves_an_adopted_cluster(cluster, record)
    local place, name = cluster.place, cluster.config.name
    place:must({ "mkdir", "-p", place:path("home/state/moonrise/old") })
    place:write("home/state/moonrise/old/cluster.json", (record:gsub('(["/])' .. name .. '(["/])',
        "%1old%2")))
    rewrite(cluster, '"' .. name .. '"', '"old"')
    local result = adopt(cluster)
    assert.equal(1, result.code, result.out)
    assert.matches("Everything is as before", result.out, 1, true)
    assert.matches("it belongs to a cluster of moonrise already", result.err, 1, true)
    cluster:wait_healthy(1)
    -- Its epochs are what they were: it takes orders.
    cluster:must({ "stop", "-ar" })
    cluster:wait_healthy()
end

describe("init --adopt", function()
    local place, cluster, coordinator, primary

    local function servers(options)
        options = options or {}
        coordinator = running(cluster, cluster.config.coordinator, options.coordinator)
        primary = running(cluster, cluster.config.segments[1].primary, options.primary)
    end

    before_each(function()
        place = place_of.new()
        -- As pg.new makes its servers: nothing forces a restart.
        cluster = cluster_of.new(place, { segments = 1, settings = { max_connections = 30 } })
    end)

    after_each(function()
        place:close()
    end)

    it("gives lone primaries mirrors, leaves replicas of others, restarts nobody", function()
        servers({ primary = LOUD })
        primary:sql("create extension pg_stat_statements")
        promoted_once(primary)
        somebody_receives(primary)
        local before = { shape(coordinator), shape(primary) }
        local plan = cluster:must({ "init", "--adopt", "--dry-run", cluster.file })
        assert.matches("No instance is restarted", plan, 1, true)
        assert.is_nil(plan:find("synchronous_commit", 1, true), plan)
        assert.matches("Left alone: pg_receivewal from its socket streams from dbid 2 by the " ..
            "slot others", plan, 1, true)
        assert.matches("max_slot_wal_keep_size +'%-1' +'%d+MB'", plan)
        assert.matches('"restarts":%[%]', cluster:must({ "init", "--adopt", "--dry-run", "--json",
            cluster.file }))
        assert.same(before, { shape(coordinator), shape(primary) })
        assert.is_nil(read(place:path("home/state")))
        local lines = read(primary.datadir .. "/pg_hba.conf")
        must_adopt(cluster)
        assert.equal("", closed_files(primary))
        cluster:wait_healthy()
        assert.equal("2", cluster:catalog(
            "select timeline from pair_state where content = 0")[1].timeline)
        assert.equal(before[1].pid, coordinator:pid())
        assert.equal(before[2].pid, primary:pid())
        local hba = read(primary.datadir .. "/pg_hba.conf")
        assert.matches("^# moonrise begins[^\n]*\nlocal postgres,replication moonrise scram", hba)
        assert.equal(lines, hba:sub(-#lines))
        assert.equal("-1", primary:value("current_setting('max_slot_wal_keep_size')"))
        assert.matches("grant execute on function", read(primary.log), 1, true)
        assert.is_nil(read(primary.log):find("SCRAM-SHA-256$", 1, true))
        assert.equal("0", primary:value("(select count(*) from pg_stat_statements "
            .. "where query ~ 'SCRAM-SHA-256[$]')"))
        assert.equal("mr_slot_3 others", primary:value("(select string_agg(slot_name, ' ' " ..
            "order by slot_name) from pg_replication_slots where active)"))
        cluster:must({ "stop", "-ar" })
        cluster:wait_healthy()
        cluster:must({ "state", "-e" })
        assert.equal("''", read(primary.datadir .. "/moonrise.conf"):match(
            "listen_addresses = (%S+)"))
    end)

    it("adopts a standby made by hand, restarts what has to be, and fails over", function()
        servers({ coordinator = { wal_level = "minimal", max_wal_senders = "0",
            listen_addresses = "" } })
        local mirror = standby(primary, cluster.config.segments[1].mirror)
        local pids = { primary:pid(), mirror:pid() }
        local out = must_adopt(cluster)
        assert.matches("dbid 1 (coordinator) is restarted", out, 1, true)
        assert.is_nil(out:find("dbid [23] %(%a+%) is restarted"))
        assert.matches("1 +wal_level +'minimal' +'replica'", out)
        assert.same(pids, { primary:pid(), mirror:pid() })
        cluster:wait_healthy()
        assert.equal("mr_slot_3",
            primary:value("(select string_agg(slot_name, ' ') from pg_replication_slots)"))
        assert.equal("replica", cluster:coordinator():value("current_setting('wal_level')"))
        keeps_rows(cluster)
    end)

    it("refuses by name what it cannot take over, and touches nothing", function()
        servers({ coordinator = { listen_addresses = "" } })
        local plan = cluster:must({ "init", "--adopt", "--dry-run", cluster.file })
        assert.matches("dbid 1 (coordinator) is restarted", plan, 1, true)
        assert.matches("1 +listen_addresses +'' +'127.0.0.1'", plan)
        refuses_what_has_changed(cluster, coordinator)
        local cert = place:path("cert")
        rewrite(cluster, "return {", ("return { tls = { cert = %q, key = %q },"):format(cert, cert))
        refused(cluster, primary, "tls on host localhost: ")
        rewrite(cluster, (" tls = { cert = %q, key = %q },"):format(cert, cert), "")
        local at = cluster.config.segments[1].primary
        rewrite(cluster, '["port"] = ' .. at.port, '["port"] = 1')
        refused(cluster, primary, ("its server has port %d, the file says 1"):format(at.port))
        rewrite(cluster, '["port"] = 1,', ('["port"] = %d,'):format(at.port))
        rewrite(cluster, '"' .. at.datadir .. '"', '"' .. at.datadir .. 'x"')
        refused(cluster, primary, "there is no server in " .. at.datadir .. "x")
        rewrite(cluster, '"' .. at.datadir .. 'x"', '"' .. at.datadir .. '"')

        primary:sql("alter system set synchronous_standby_names = 'theirs'")
        primary:sql("set synchronous_commit = local; select pg_reload_conf()")
        wait.eventually("the setting", wait.SOON_S, function()
            return primary:value("current_setting('synchronous_standby_names')") == "theirs"
        end)
        refused(cluster, primary, "its synchronous_standby_names is 'theirs', and moonrise sets it")
        primary:sql("alter system reset synchronous_standby_names")
        primary:sql("select pg_reload_conf()")
        primary:sql("set synchronous_commit = local; create role moonrise; create database repmgr")
        primary:sql("select pg_create_physical_replication_slot('mr_slot_9')")
        place:must({ "touch", primary.datadir .. "/patroni.dynamic.json" })
        refused(cluster, primary, "it has a role moonrise already")
        local err = adopt(cluster, "--superuser", "a_stranger").err
        assert.matches("a session as a_stranger: ", err, 1, true)
        err = adopt(cluster).err
        for _, words in ipairs({ "another manager takes care of it, or did: the database repmgr",
            "its file patroni.dynamic.json", "it has a slot mr_slot_9" }) do
            assert.matches(words, err, 1, true)
        end
    end)

    it("refuses a mirror that is not its primary's, and what a copy would share", function()
        servers()
        local mirror = standby(coordinator, cluster.config.segments[1].mirror)
        refused(cluster, mirror, "it is of system " .. mirror:value(
            "(select system_identifier from pg_control_system())") .. ", its primary of")
        mirror:stop()
        refused(cluster, primary, "no server runs in " .. mirror.datadir)
        place:must({ "rm", "-r", mirror.datadir })
        place:must({ "mkdir", place:path("space") })
        primary:sql("create tablespace outside location '" .. place:path("space") .. "'")
        refused(cluster, primary, "is in " .. place:path("space") .. ", which it would share")
    end)

    it("takes everything back after a failure, restarts included", function()
        cluster = cluster_of.new(place, { segments = 2, standby = true,
            settings = { max_connections = 30 } })
        -- Its port is nowhere but on its command line.
        coordinator = running(cluster, cluster.config.coordinator,
            { wal_level = "minimal", max_wal_senders = "0", port = "1" },
            ("-p %d -c work_mem=5MB"):format(cluster.config.coordinator.port))
        primary = running(cluster, cluster.config.segments[1].primary)
        local hand_made = standby(primary, cluster.config.segments[1].mirror)
        local other = running(cluster, cluster.config.segments[2].primary)
        -- One after another, the standby first: its slot must go before wal_level is minimal again;
        -- then the mirror that was made by hand.
        local mirror = cluster.config.segments[2].mirror
        place:must({ "mkdir", "-m", "500", place:path("closed") })
        rewrite(cluster, '"' .. mirror.datadir .. '"', '"' .. place:path("closed/mirror") .. '"')
        local servers_of_it = { coordinator, primary, hand_made, other }
        local before = shapes(servers_of_it)
        local result = adopt(cluster, "-b", "1")
        assert.equal(1, result.code)
        assert.matches("closed", result.err, 1, true)
        assert.matches("Everything is as before", result.out, 1, true)
        local after = shapes(servers_of_it)
        assert.not_equal(before[1].pid, after[1].pid)
        after[1].pid = before[1].pid
        assert.same(before, after)
        assert.equal("minimal", coordinator:value("current_setting('wal_level')"))
        -- It streams by the slot it had, and would if it were started anew.
        assert.equal("by_hand", hand_made:value("(select slot_name from pg_stat_wal_receiver "
            .. "where status = 'streaming')"))
        assert.is_nil(read(cluster.config.standby.datadir .. "/PG_VERSION"))
        assert.is_nil(read(cluster:state_file("cluster.json")))
        place:must({ "chmod", "700", place:path("closed") })
    end)

    it("is run again after it was killed", function()
        servers({ coordinator = { wal_level = "minimal", max_wal_senders = "0" } })
        local hand_made = standby(primary, cluster.config.segments[1].mirror)
        local args = { "init", "--adopt", "-a", cluster.file }
        local program = cluster:start(args)
        program:says("Making mirrors", wait.SOON_S)
        program:kill("KILL")
        program:wait(wait.SOON_S)
        assert.matches("an adoption of the cluster .* was interrupted",
            cluster:moonrise({ "init", "-a", cluster.file }).err)
        local old = leaves_a_database(cluster, coordinator)
        -- One that is killed between taking back and beginning anew leaves nothing to take back.
        local dice, out, said = dice_of.new(), nil, ""
        for n = 1, ROUNDS do
            local delay, began = dice:number(SPAN_S), wait.now()
            local again = cluster:start(args)
            dice:told(("round %d, killed after %.3f s"):format(n, delay), function()
                wait.eventually("the moment of the kill", SPAN_S + 10, function()
                    return wait.now() - began > delay or again:code()
                end)
                again:kill("KILL")
                again:wait(30)
                out = again:output()
                said = said .. out
                assert.is_nil(out:find("[ERROR]", 1, true), out)
                out = out:find("is adopted and running", 1, true) and out
            end)
            if out then
                break
            end
        end
        out = out or must_adopt(cluster)
        assert.matches("what it did is taken back first", said .. out, 1, true)
        assert.matches("The slot by_hand, by which dbid 3 streams now, is dropped", out, 1, true)
        cluster:wait_healthy()
        -- It was given back whole before it was adopted again.
        assert.matches("primary_slot_name = 'by_hand'",
            read(hand_made.datadir .. "/moonrise.before"), 1, true)
        leaves_an_adopted_cluster(cluster, old)
    end)
end)

-- The unit whose control group it is in, of which no text says which directory it starts; and one
-- of the user's own manager with the name of another one.
local function refuses_its_own_unit(cluster, server, units)
    local place, users = cluster.place, cluster.place:path("users")
    local args = { "init", "--adopt", "--dry-run", cluster.file }
    place:must({ "mkdir", "-p", users .. "/default.target.wants", units .. "/own.service.d" })
    place:must({ "ln", "-s", "../sales.service", users .. "/default.target.wants/" })
    place:must({ "cp", units .. "/sales.service", users })
    place:write("units/sales.service", "[Service]\nExecStart=/bin/true\n")
    place:write("units/own.service",
        "[Service]\nExecStart=/usr/bin/postgres -D ${ROOT}/data\nRestart=on-failure\n")
    namespace.bind(users, "/etc/systemd/user")
    namespace.bind(place:write("cgroup", "0::/system.slice/own.service\n"),
        ("/proc/%d/cgroup"):format(server:pid()))
    local err = cluster:moonrise(args).err
    assert.matches("systemctl --user disable sales.service", err, 1, true)
    assert.matches("the unit own.service, in which it runs, has Restart=on-failure", err, 1, true)
    assert.is_nil(err:find("own.service is enabled", 1, true))
    place:must({ "ln", "-s", "../own.service", units .. "/multi-user.target.wants/" })
    place:write("units/own.service.d/override.conf", "[Service]\nRestart=no\n")
    err = cluster:moonrise(args).err
    assert.matches("systemctl disable own.service", err, 1, true)
    assert.is_nil(err:find("Restart=", 1, true))
end

describe("init --adopt, beside what starts servers", function()
    local place, cluster, server

    setup(function()
        place = place_of.new()
    end)

    it("refuses an instance that starts by itself, and says how to end that", function()
        local entered, why = namespace.enter()
        if not entered then
            pending(why)
            return
        end
        cluster = cluster_of.new(place, { mirrors = false, settings = { max_connections = 30 } })
        server = running(cluster, cluster.config.coordinator)
        running(cluster, cluster.config.segments[1].primary)
        local units, debian = place:path("units"), place:path("debian")
        place:must({ "mkdir", "-p", units .. "/multi-user.target.wants", debian .. "/15/main" })
        place:write("units/sales.service", "[Service]\nEnvironment=PGDATA=" .. server.datadir ..
            "/\nExecStart=/usr/lib/postgresql/15/bin/postgres\n")
        place:write("debian/15/main/postgresql.conf",
            "data_directory = '" .. server.datadir .. "'\n")
        place:write("debian/15/main/start.conf", "# start\nmanual\n")
        namespace.apart(function()
            namespace.bind(units, "/etc/systemd/system")
            namespace.bind(debian, "/etc/postgresql")
            local args = { "init", "--adopt", "--dry-run", cluster.file }
            cluster:must(args)
            place:must({ "ln", "-s", "../sales.service", units .. "/multi-user.target.wants/" })
            place:write("debian/15/main/start.conf", "auto\n")
            local result = cluster:moonrise(args)
            assert.equal(1, result.code)
            assert.matches("something else starts it: the unit sales.service is enabled",
                result.err, 1, true)
            assert.matches("systemctl disable sales.service", result.err, 1, true)
            assert.matches("something else starts it: /etc/postgresql/15/main/start.conf says auto",
                result.err, 1, true)
            refuses_its_own_unit(cluster, server, units)
        end)
    end)
end)

teardown(place_of.close_all)
