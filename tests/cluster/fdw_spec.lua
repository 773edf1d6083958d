--- Foreign servers on the coordinator follow a failover, and the sessions that use them live on.

local cluster_of = require("tests.lib.cluster")
local gate_of = require("tests.lib.gate")
local hurt = require("tests.lib.hurt")
local place_of = require("tests.lib.place")
local psql = require("tests.lib.psql")
local wait = require("tests.lib.wait")

local SOON_S = wait.SOON_S
local LONG_S = 60

local INSTALL = [[
local session = require("lib.session")
return { summary = "installs foreign servers", main = function(options)
    return session.with(options, function(ctx)
        local ok, err = require("lib.fdw").install(ctx, "shop")
        return ok and 0 or nil, err
    end)
end }
]]

local CANCEL = [[
local session = require("lib.session")
local mr = require("moonrise")
return { summary = "cancels what hangs", main = function(options)
    return session.with(options, function(ctx)
        local count, err = require("lib.fdw").cancel_hanging(ctx, 100)
        mr.out(("cancelled %s\n"):format(tostring(count)))
        return count and 0 or nil, err
    end)
end }
]]

local OPTIONS = [[
select o.option_name as name, o.option_value as value
from pg_foreign_server s, pg_options_to_table(s.srvoptions) o where s.srvname = 'seg0']]

describe("foreign servers", function()
    local place, cluster, watch

    local function on_coordinator(sql, options)
        options = options or {}
        options.dbname = "shop"
        return cluster:coordinator():sql(sql, options)
    end

    -- A superuser's statements cannot be cancelled by the role moonrise.
    local function as_shop()
        return psql.session(place, setmetatable({ dbname = "shop", user = "shop" },
            { __index = cluster:coordinator() }))
    end

    local function server_options()
        local map = {}
        for _, row in ipairs(on_coordinator(OPTIONS)) do
            map[row.name] = row.value
        end
        return map
    end

    local function make_shop()
        for content = 0, 1 do
            local primary = cluster:primary(content)
            primary:sql("create role shop login password 'x'")
            primary:sql("create database shop owner shop")
            primary:sql([[create table orders (id int); alter table orders owner to shop;
                create view slow as select 1 as id from pg_sleep(20);
                alter view slow owner to shop]], { dbname = "shop" })
        end
        cluster:coordinator():sql("create role shop login")
        cluster:coordinator():sql("create database shop")
        cluster:must({ "run", place:write("install.lua", INSTALL) })
        on_coordinator([[
            create user mapping for shop server seg0 options (user 'shop', password 'x');
            grant usage on foreign server seg0 to shop;
            create foreign table orders (id int) server seg0;
            alter foreign table orders owner to shop;
            create user mapping for shop server seg1 options (user 'shop', password 'x');
            grant usage on foreign server seg1 to shop;
            create foreign table slow (id int) server seg1;
            alter foreign table slow owner to shop]])
    end

    setup(function()
        place = place_of.new()
        cluster = cluster_of.new(place, { segments = 2, standby = true,
            hba = { "host shop shop 127.0.0.1/32 scram-sha-256", "local shop shop trust" } })
        cluster:init()
        make_shop()
        watch = cluster:watch()
        watch:says("watching", SOON_S)
    end)

    teardown(place_of.close_all)

    it("list both instances, the primary first, and bound every wait", function()
        local options = server_options()
        local ports = ("%s,%s"):format(cluster:primary(0).port, cluster:mirror(0).port)
        assert.are.equal(ports, options.port)
        assert.are.equal("read-write", options.target_session_attrs)
        for _, name in ipairs({ "connect_timeout", "keepalives_idle", "tcp_user_timeout" }) do
            assert.is_not_nil(options[name], name)
        end
    end)

    it("follow a failover, and the session that used them goes on", function()
        local session = cluster:session("shop")
        session:ask("set role shop")
        session:ask("insert into orders values (1)")
        local pid = session:ask("select pg_backend_pid()")
        local old, mirror = cluster:primary(0), cluster:mirror(0)
        old:kill()
        wait.eventually("a write through the same session", SOON_S, function()
            local answer = session:ask("insert into orders values (2) returning id")
            return not answer:match("ERROR"), answer
        end)
        assert.are.equal(pid, (session:ask("select pg_backend_pid()")))
        wait.eventually("the new primary to be named first", SOON_S, function()
            return server_options().port == ("%s,%s"):format(mirror.port, old.port),
                server_options().port
        end)
        assert.are.equal("1\n2\n", (session:ask("select distinct id from orders order by 1")))
        session:close()
        assert.is_not_nil(cluster:catalog("select id from journal where kind = 'fdw'")[1])
    end)

    -- The mirror's way to a place of its own: its port, and what follows the command.
    local function to_new_place(name)
        local old, port = cluster:mirror(0), place_of.free_port()
        local file = place:write("moves", ("%s|%s|%s|%s %s|%s|%d|%s"):format(old.hostname,
            old.address, old.port, old.datadir, old.hostname, old.address, port, place:path(name)))
        return port, "-a", "-i", file
    end

    local function assert_listed(mirror_port)
        assert.are.equal(("%s,%s"):format(cluster:primary(0).port, mirror_port),
            server_options().port)
    end

    it("follow an instance to its new place before it is up there, whoever is killed then",
        function()
        cluster:wait_row({ content = 0, role = "m", status = "d" }, SOON_S)
        local port, a, i, file = to_new_place("moved")
        local gate = gate_of.close(cluster, "update on gp_segment_configuration",
            "old.status = 'd' and new.status = 'u'")
        gate:kill(cluster:start({ "recoverseg", a, i, file }))
        assert_listed(port)
        cluster:must({ "recoverseg", "-a" })
        assert_listed(port)
    end)

    it("are seen to by the next run when a database could not be reached", function()
        for _, next_run in ipairs({ "movemirrors", "recoverseg" }) do
            cluster:wait_row({ content = 0, role = "m", status = "u", mode = "s" }, LONG_S)
            local before = server_options().port
            local port, a, i, file = to_new_place("after_" .. next_run)
            cluster:coordinator():sql("alter database shop allow_connections false")
            local said = cluster:moonrise({ "movemirrors", a, i, file })
            cluster:coordinator():sql("alter database shop allow_connections true")
            assert.matches("foreign servers.*not currently accepting connections", said.out)
            assert.are.equal(before, server_options().port)
            cluster:must(next_run == "recoverseg" and { "recoverseg", "-a" }
                or { "movemirrors", a, i, file })
            assert_listed(port)
        end
    end)

    it("follow in each database, whatever becomes of the others", function()
        cluster:wait_row({ content = 0, role = "m", status = "u", mode = "s" }, LONG_S)
        local port, a, i, file = to_new_place("beside_absent")
        cluster:catalog("select moonrise.fdw_database_set('absent')")
        local said = cluster:moonrise({ "movemirrors", a, i, file })
        cluster:catalog("select moonrise.fdw_database_set('absent', false)")
        assert.matches('foreign servers.*"absent" does not exist', said.out)
        assert_listed(port)
    end)

    it("have what hangs on a lost primary cancelled, and nothing that another one serves",
        function()
        cluster:unwatch(SOON_S)
        local hanging, served = as_shop(), as_shop()
        hanging:ask("select count(*) from orders")
        local thaw = hurt.stop_tree(cluster:primary(0))
        hanging:send("select count(*) from orders")
        served:send("select count(*) from slow")
        wait.eventually("both to wait for a foreign server", SOON_S, function()
            return #cluster:catalog([[select pid from pg_stat_activity
                where wait_event = 'Extension'
                and query_start < clock_timestamp() - interval '200 ms']]) == 2
        end)
        local said = cluster:must({ "run", place:write("cancel.lua", CANCEL) })
        thaw()
        assert.matches("cancelled 1\n", said)
        assert.matches("canceling statement due to user request", (hanging:answer()))
        hanging:close()
        served:close()
        watch = cluster:watch()
        watch:says("watching", SOON_S)
    end)

    it("are put right by the next watcher when nobody did", function()
        cluster:unwatch(SOON_S)
        on_coordinator(("alter server seg0 options (set port '%s,%s')"):format(
            cluster:mirror(0).port, cluster:primary(0).port))
        watch = cluster:watch()
        wait.eventually("the primary to be named first", SOON_S, function()
            return server_options().port == ("%s,%s"):format(cluster:primary(0).port,
                cluster:mirror(0).port)
        end)
    end)
end)
