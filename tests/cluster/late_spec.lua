--- What comes too late: orders, statements and runbooks of somebody who was stopped while another
--- one took over and acted (SAFETY.md, rules 6 and 7). It is refused, and said so.

local cluster_of = require("tests.lib.cluster")
local hurt = require("tests.lib.hurt")
local place_of = require("tests.lib.place")
local psql = require("tests.lib.psql")
local wait = require("tests.lib.wait")

local SOON_S = wait.SOON_S
-- Long enough for whatever comes late to have been tried.
local QUIET_S = 3
-- A watcher that sleeps for so long has lost everything: in the long form it does.
local SLEEP_S = os.getenv("MOONRISE_CAMPAIGN") and 60 or 0

-- Decides by what is so now, and gives all orders of that epoch when it is told to go on.
local LATE_ORDERS = [[
local instance = require("lib.instance")
local mr = require("moonrise")
local session = require("lib.session")
local wait = require("lib.wait")

local function try(ctx, inst, epoch, op, args)
    args.epoch = epoch
    local done, err = ctx.agents:order(inst, op, args, { timeout_ms = 20000 })
    mr.out(("%s %d: %s\n"):format(op, inst.dbid, done and "carried out" or err.code))
end

return { summary = "spec", options = {}, main = function(opts)
    return session.with(opts, function(ctx)
        local pair = mr.check(ctx.cat:pair(0))
        local epoch = mr.check(ctx.cat:pair_state(0)).epoch
        mr.out("decided\n")
        wait.eventually(600000, 20, function()
            return mr.stat("GO")
        end)
        for _, inst in ipairs({ pair.primary, pair.mirror }) do
            for _, op in ipairs({ "fence", "stop", "mark", "start", "checkpoint" }) do
                try(ctx, inst, epoch, op, { listen = "127.0.0.1" })
            end
            try(ctx, inst, epoch, "release", {})
            try(ctx, inst, epoch, "promote", { flush_lsn = "0/1" })
            try(ctx, inst, epoch, "name", { name = "mr_0_9_9" })
            try(ctx, inst, epoch, "arm", { name = "mr_0_9_9",
                slot = instance.slot_name(pair.mirror) })
            try(ctx, inst, epoch, "slot", { name = "late" })
            try(ctx, inst, epoch, "follow", { conninfo = "port=1", slot = "late" })
            try(ctx, inst, epoch, "configure", { settings = { port = 1 } })
            try(ctx, inst, epoch, "recover", { type = "full",
                source = { datadir = pair.primary.datadir } })
            try(ctx, inst, epoch, "remove_datadir",
                { fence = true, maker = mr.check(ctx.agents:inspect(inst)).maker })
        end
        return 0
    end)
end }
]]

describe("what comes too late:", function()
    local place, cluster

    setup(function()
        place = place_of.new()
        cluster = cluster_of.new(place, { segments = 1 })
        cluster:init()
        cluster:primary(0):sql("create table t (who text)")
    end)

    teardown(place_of.close_all)

    -- Nobody else can give this instance an order until the lock is released.
    local function hold_lock(server)
        return hurt.hold_lock(place, server.datadir .. "/moonrise.lock")
    end

    -- A program and its agents, as one that the machine does not let run.
    local function stop_all(program)
        program.wake = hurt.freeze_tree(program.pid)
    end

    local function end_watcher(watch)
        if watch.wake then
            watch.wake()
        end
        watch:kill("TERM")
        watch:wait(SOON_S)
    end

    -- Two watchers; the second one waits for the first one's lease.
    local function two_watchers()
        local first = cluster:watched()
        local second = cluster:watch()
        finally(function()
            end_watcher(first)
            end_watcher(second)
        end)
        second:says("somebody else holds", SOON_S)
        return first, second
    end

    local function roles()
        local text = {}
        for _, row in ipairs(cluster:rows()) do
            table.insert(text, row.dbid .. row.role)
        end
        return table.concat(text, " ")
    end

    -- Whatever the late one does now, nothing of it is to be seen.
    local function nothing_happens()
        local primary, mirror = cluster:primary(0), cluster:mirror(0)
        local before, pids = roles(), primary:pid() .. " " .. mirror:pid()
        wait.always("the pair is left as it is", QUIET_S, function()
            return primary:pid() .. " " .. mirror:pid() == pids and roles() == before
        end)
        primary:sql("insert into t values ('after')", { timeout_s = wait.SOON_S })
        cluster:wait_healthy()
    end

    it("every order of an epoch by which somebody has decided before", function()
        local go = place:path("go")
        local file = place:write("late.lua", (LATE_ORDERS:gsub("GO", go)))
        local watch = cluster:watched()
        finally(function()
            end_watcher(watch)
        end)
        local late = cluster:start({ "run", file })
        late:says("decided", SOON_S)
        local mirror = cluster:mirror(0)
        cluster:primary(0):kill()
        cluster:wait_row({ dbid = mirror.dbid, role = "p" }, SOON_S)
        cluster:recover()
        place:write("go", "")
        assert.are.equal(0, late:wait(120), late:output())
        local said = late:output()
        local rest, count = said:gsub("[%w_]+ %d+: stale\n", "")
        assert.are.equal("decided\n", rest)
        assert.are.equal(28, count)
        nothing_happens()
    end)

    it("the promotion of a watcher that was stopped before it could give the order", function()
        local first, second = two_watchers()
        local primary, mirror = cluster:primary(0), cluster:mirror(0)
        local release = hold_lock(mirror)
        primary:kill()
        cluster:wait_row({ dbid = mirror.dbid, role = "p" }, SOON_S)
        stop_all(first)
        release()
        second:says("watching", SOON_S)
        wait.eventually("the second one to promote", SOON_S, function()
            return mirror:value("pg_is_in_recovery()") == "f", second:output()
        end)
        cluster:recover()
        wait.always("it sleeps", SLEEP_S, function()
            return true
        end)
        first.wake()
        nothing_happens()
        first:says("promote dbid " .. mirror.dbid, SOON_S)
    end)

    it("the fence of a watcher that was stopped before it could give the order", function()
        local first, second = two_watchers()
        local primary, mirror = cluster:primary(0), cluster:mirror(0)
        local release = hold_lock(primary)
        -- It may have been fenced before, when a test killed it and something of it was left.
        local before = cluster:journal_end()
        primary:kill("STOP")
        cluster:wait_journal({ kind = "reserve", text = "^fence dbid " .. primary.dbid .. ":",
            since = before }, SOON_S)
        stop_all(first)
        primary:kill("CONT")
        release()
        second:says("watching", SOON_S)
        -- It lives after all, and whatever is done to it next comes from the second one.
        mirror:kill()
        cluster:wait_row({ dbid = mirror.dbid, status = "d" }, SOON_S)
        primary:sql("insert into t values ('released')", { timeout_s = SOON_S })
        cluster:recover()
        first.wake()
        nothing_happens()
        first:says("fence dbid " .. primary.dbid, SOON_S)
    end)

    it("a statement of an earlier order, whose backend was stopped", function()
        local watch = cluster:watched()
        local primary, mirror = cluster:primary(0), cluster:mirror(0)
        -- One of a superuser's is no order's, whatever it calls itself.
        local other = primary:session()
        other:ask("set application_name = 'moonrise agent 1'")
        local session = psql.session(place, setmetatable({ user = "moonrise",
            passfile = cluster:state_file("passfile"),
        }, { __index = primary }))
        local pid = tonumber((session:ask("set application_name = 'moonrise agent 1'; " ..
            "select pg_backend_pid()"):match("%d+")))
        finally(function()
            place_of.kill(pid, "CONT")
            session:close()
            other:close()
            end_watcher(watch)
        end)
        place_of.kill(pid, "STOP")
        session:send("alter system set synchronous_standby_names = 'late'")
        mirror:kill()
        watch:says("release.-earlier order", SOON_S)
        place_of.kill(pid, "CONT")
        primary:sql("insert into t values ('released')", { timeout_s = SOON_S })
        assert.are.equal("", primary:value("current_setting('synchronous_standby_names')"))
        assert.is_nil(place_of.read(primary.datadir .. "/postgresql.auto.conf"):match("late"))
        cluster:recover()
        assert.is_nil(place_of.read(primary.datadir .. "/postgresql.auto.conf"):match("late"))
    end)

    it("a recovery whose command and agent were stopped past the end of its lease", function()
        local mirror = cluster:mirror(0)
        mirror:kill()
        cluster:must({ "watch", "--once" })
        local first = cluster:start({ "recoverseg", "-a", "--differential", "--max-rate", "1MB" })
        wait.eventually("the copy to begin", SOON_S, function()
            return place_of.read(mirror.datadir .. "/moonrise.progress"), first:output()
        end)
        stop_all(first)
        finally(first.wake)
        -- Half a minute later, as the catalog sees it.
        cluster:catalog("update content_lease set expires = clock_timestamp() where content = 0")
        cluster:must({ "recoverseg", "-a" })
        cluster:must({ "watch", "--once" })
        cluster:wait_healthy()
        first.wake()
        assert.are.equal(1, first:wait(SOON_S), first:output())
        assert.matches("recovery failed, its catalog row is as before", first:output())
        nothing_happens()
    end)

    it("a stop that a start has overtaken, at the coordinator too", function()
        local coordinator = cluster:coordinator()
        local release = hold_lock(coordinator)
        local stop = cluster:start({ "stop", "-a", "-M", "fast" })
        wait.eventually("the stop to be recorded", SOON_S, function()
            return cluster:catalog("select 1 from cluster_state where state = 'stopped'")[1]
        end)
        stop_all(stop)
        release()
        cluster:must({ "start", "-a" })
        local pid = coordinator:pid()
        stop.wake()
        assert.are.equal(1, stop:wait(SOON_S), stop:output())
        assert.are.equal(pid, cluster:coordinator():pid())
        -- Where it had taken the lock already, the newer order has ended its agent.
        local said = stop:output()
        assert.is_truthy(said:match("comes too late") or said:match("ended by signal 9"), said)
        nothing_happens()
    end)
end)
