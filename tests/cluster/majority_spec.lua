--- The coordinator's own pair on real servers (SAFETY.md, rule 8): three hosts, which are names of
--- this one. A host is away while somebody holds the lock of its record.

local cluster_of = require("tests.lib.cluster")
local hurt = require("tests.lib.hurt")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local SOON_S = wait.SOON_S

-- Has a host see an epoch that the catalog has not given out.
local FORESEES = [[
local hosts_record = require("lib.hosts_record")
local mr = require("moonrise")
local session = require("lib.session")

local function main(options)
    return session.with(options, function(ctx)
        local there = { env = ctx.env, agents = ctx.agents,
            sysid = mr.check(ctx.cat:state()).sysid }
        local record = mr.check(hosts_record.read(there, "::1"))
        record.found, record.catalog_epoch = nil, 100000
        mr.check(hosts_record.write(there, "::1", record))
        return 0
    end)
end

return { summary = "spec", usage = "", description = "spec", options = {}, main = main }
]]

local HOSTS = { standby = "127.0.0.1", primary0 = "::1" }

describe("the coordinator's pair", function()
    local place, cluster, watch, away, after_init

    local function file_of(host)
        local sysid = cluster:coordinator():control()["Database system identifier"]
        return cluster:state_file(("coordinator.%s.%s"):format(sysid, host))
    end

    -- What a host has on record: "s", "n", or nothing yet; its epoch, and the catalog's.
    local function on_record(host)
        local text = place_of.read(file_of(host)) or ""
        return text:match("mode = '(%a)'"), tonumber(text:match("\nepoch = '(%d+)'")),
            tonumber(text:match("catalog_epoch = '(%d+)'"))
    end

    local function wait_record(host, mode)
        wait.eventually(("%s to have %s on record"):format(host, mode), SOON_S, function()
            return on_record(host) == mode, place_of.read(file_of(host))
        end)
    end

    local function take_away(host)
        away[host] = hurt.hold_lock(place, file_of(host) .. ".lock")
    end

    local function bring_back(host)
        away[host]()
        away[host] = nil
    end

    local function bring_all_back()
        for host in pairs(away) do
            bring_back(host)
        end
    end

    local function in_sync()
        wait.eventually("the standby to be in sync", wait.SOON_S, function()
            return cluster:mirror(-1).mode == "s", watch:output()
        end)
    end

    local function recover()
        cluster:recover()
        in_sync()
    end

    -- A transaction of a client, in a session of its own.
    local function commits(session)
        session:send("create table t" .. cluster:journal_end() .. " (i int)")
    end

    local function writes()
        cluster:coordinator():sql(("create table after%d (i int)"):format(cluster:journal_end()),
            { timeout_s = SOON_S })
    end

    local function kill_watcher()
        watch:kill("KILL")
        watch:wait(SOON_S)
    end

    setup(function()
        place, away = place_of.new(), {}
        cluster = cluster_of.new(place, { standby = true, hosts = HOSTS })
        cluster:init()
        after_init = 0
        for _, host in ipairs({ "localhost", "127.0.0.1", "::1" }) do
            after_init = after_init + (on_record(host) == "s" and 1 or 0)
        end
        cluster:primary(0):sql("create table ledger (i serial)")
        watch = cluster:watched()
        in_sync()
    end)

    after_each(bring_all_back)

    teardown(place_of.close_all)

    it("is on record on every host, with the catalog's epoch", function()
        assert.is_true(after_init >= 2)
        for _, host in ipairs({ "localhost", "127.0.0.1", "::1" }) do
            wait_record(host, "s")
        end
        local epoch = tonumber(cluster:catalog([[select moonrise.epoch_reserve(
            moonrise.lease_take(0, 'spec', 'spec', 'x', '1 second'), 0, 'spec') as e]])[1].e)
        wait.eventually("the hosts to be told", SOON_S, function()
            return select(3, on_record("::1")) >= epoch, place_of.read(file_of("::1"))
        end)
    end)

    it("has a catalog that gives out no epoch that a host has seen", function()
        kill_watcher()
        cluster:must({ "run", place:write("foresees.lua", FORESEES) })
        watch = cluster:watch()
        wait.eventually("the catalog to be told", SOON_S, function()
            return tonumber(cluster:catalog("select epoch from cluster_state")[1].epoch) >= 100000
        end)
        wait.eventually("the others to be told", SOON_S, function()
            return select(3, on_record("localhost")) >= 100000
        end)
    end)

    it("is released with one host of three away, which is told when it is back", function()
        local since, standby = cluster:journal_end(), cluster:mirror(-1)
        local before = select(2, on_record("::1"))
        take_away("::1")
        standby:kill()
        cluster:wait_row({ dbid = standby.dbid, status = "d", mode = "n" }, SOON_S)
        writes()
        local told = cluster:journal({ kind = "mirror_down", since = since })[1]
        assert.matches('"hosts": %["127.0.0.1", "localhost"%]', told.data:gsub(
            '%["localhost", "127.0.0.1"%]', '["127.0.0.1", "localhost"]'))
        for _, host in ipairs({ "localhost", "127.0.0.1" }) do
            local mode, epoch = on_record(host)
            assert.are.equal("n", mode)
            assert.is_true(epoch > before)
        end
        assert.are.equal("s", (on_record("::1")))
        bring_back("::1")
        wait_record("::1", "n")
        recover()
        wait_record("::1", "s")
    end)

    it("is not released with two of three away: commits wait, and that is told", function()
        local since, standby = cluster:journal_end(), cluster:mirror(-1)
        local session = cluster:session("postgres")
        finally(function()
            bring_all_back()
            session:close()
        end)
        take_away("::1")
        take_away("127.0.0.1")
        standby:kill()
        local told = cluster:wait_journal({ kind = "refused", since = since }, SOON_S)
        assert.matches("no release: rule 8", told.text)
        commits(session)
        wait.eventually("a commit to wait", SOON_S, function()
            return cluster:coordinator():value("exists (select from pg_stat_activity " ..
                "where wait_event = 'SyncRep')") == "t"
        end)
        local shown = cluster:moonrise({ "state", "-e" })
        assert.are.equal(1, shown.code)
        assert.matches("The Coordinator Cannot Be Released from its Standby", shown.out)
        assert.matches("::1 .*is locked by process", shown.out)
        -- A watcher that is killed with the record on one host leaves nothing that the next one
        -- would take for a majority.
        kill_watcher()
        since = cluster:journal_end()
        watch = cluster:watch()
        cluster:wait_journal({ kind = "refused", since = since }, SOON_S)
        assert.are.equal("s", cluster:mirror(-1).mode)
        assert.are.same({}, cluster:journal({ kind = "mirror_down", since = since }))
        bring_back("::1")
        cluster:wait_row({ dbid = standby.dbid, status = "d", mode = "n" }, SOON_S)
        session:answer()
        bring_back("127.0.0.1")
        wait_record("127.0.0.1", "n")
        recover()
    end)

    it("is released by the next watcher when one is killed between the record and the catalog",
        function()
        local standby = cluster:mirror(-1)
        local holder = cluster:session("moonrise")
        finally(function()
            holder:close()
        end)
        take_away("::1")
        take_away("127.0.0.1")
        local since = cluster:journal_end()
        standby:kill()
        cluster:wait_journal({ kind = "reserve", since = since }, SOON_S)
        -- From here on the catalog takes no transition.
        holder:ask("begin")
        holder:ask("select from moonrise.cluster_state for update")
        bring_back("::1")
        bring_back("127.0.0.1")
        wait_record("localhost", "n")
        wait_record("::1", "n")
        kill_watcher()
        assert.are.equal("s", cluster:mirror(-1).mode)
        holder:ask("rollback")
        watch = cluster:watch()
        cluster:wait_row({ dbid = standby.dbid, status = "d", mode = "n" }, SOON_S)
        writes()
        recover()
    end)

    it("is released by the next watcher when one is killed between the catalog and the release",
        function()
        local since, standby = cluster:journal_end(), cluster:mirror(-1)
        standby:kill()
        cluster:wait_journal({ kind = "mirror_down", since = since }, SOON_S)
        kill_watcher()
        watch = cluster:watch()
        writes()
        recover()
    end)

    it("does not hold up the failover of a segment while the standby hangs", function()
        local old, mirror, since = cluster:primary(0), cluster:mirror(0), cluster:journal_end()
        local thaw = hurt.stop_tree(cluster:mirror(-1))
        finally(function()
            thaw()
        end)
        old:kill()
        wait.eventually("a write on the mirror", SOON_S, function()
            return mirror:try_sql("insert into ledger values (default)", { timeout_s = 5 })
        end)
        -- Commits on the coordinator waited all the while: it was not released before.
        local told = tonumber(cluster:wait_journal({ kind = "failover", since = since }, SOON_S).id)
        for _, row in ipairs(cluster:journal({ kind = "mirror_down", since = since })) do
            assert.is_true(row.content ~= "-1" or tonumber(row.id) > told)
        end
        thaw()
        recover()
    end)

    it("that was a standby's has the segments' pairs confirmed by a start", function()
        kill_watcher()
        cluster:unconfirm()
        cluster:must({ "stop", "-a" })
        cluster:must({ "start", "-a" })
        assert.is_nil(cluster:catalog("select unconfirmed from pair_state where content = 0")[1]
            .unconfirmed)
        cluster:wait_healthy()
    end)
end)
