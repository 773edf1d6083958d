--- A handover whose command is killed: the watcher finishes or undoes it, and the pair is whole
--- again without anybody's help. One that is only stopped is left alone until its lease expires.

local checkup = require("tests.lib.checkup")
local cluster_of = require("tests.lib.cluster")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local SOON_S = wait.SOON_S
-- For how long it is watched that nobody touches what is leased.
local ALONE_S = 1.5
-- What is only told, not done.
local TOLD = { state = true, watcher = true }

describe("recoverseg -r, killed", function()
    local place, cluster

    setup(function()
        place = place_of.new()
        cluster = cluster_of.new(place, { segments = 1 })
        cluster:init()
        cluster:primary(0):sql("create table grown (t text)")
        cluster:watched()
    end)

    teardown(place_of.close_all)

    -- Every test begins with switched roles, in sync.
    before_each(function()
        cluster:wait_healthy()
        cluster:switch_roles(0)
    end)

    local STEPS = {
        { "the lease is taken", function(since)
            return cluster:journal({ kind = "lease", since = since, text = "^handover" })[1]
        end },
        { "the primary is told to stop", function(_, primary)
            return not primary:running() or
                place_of.read(primary.datadir .. "/moonrise.epoch"):match("stop")
        end },
        { "the primary is stopped", function(_, primary)
            return not primary:running()
        end },
        { "the roles have changed", function(since)
            return cluster:journal({ kind = "hand_over", since = since })[1]
        end },
        { "the step says so", function()
            return cluster:catalog("select 1 from content_lease where step = 'handed'")[1]
        end },
        { "the mirror is promoted", function(_, _, mirror)
            return mirror:value("pg_is_in_recovery()") == "f"
        end },
        { "the promotion is recorded", function(since)
            return cluster:journal({ kind = "promoted", since = since })[1]
        end },
    }

    -- Sends a signal to the command once it has come so far.
    local function at_step(step, signal)
        local primary, mirror, since = cluster:primary(0), cluster:mirror(0), cluster:journal_end()
        local run = cluster:start({ "recoverseg", "-a", "-r" })
        wait.eventually(step[1], SOON_S, function()
            return step[2](since, primary, mirror) or run:code()
        end)
        run:kill(signal)
        return run
    end

    local function left_alone()
        local rows, since = cluster:rows(), cluster:journal_end()
        wait.always("the leased content is left alone", ALONE_S, function()
            for _, row in ipairs(cluster:journal({ content = 0, since = since })) do
                if not TOLD[row.kind] then
                    return false, row.kind .. " " .. row.text
                end
            end
            return true
        end)
        assert.are.same(rows, cluster:rows())
    end

    local function told_of_lease(since, pattern)
        return cluster:wait_journal(
            { kind = "lease", content = 0, since = since, text = pattern }, SOON_S)
    end

    local function taken_over(since)
        return told_of_lease(since, "finished or undone")
    end

    -- One of the two good states, and the one that the catalog had when the command was killed.
    local function whole_again(dbid)
        wait.eventually("nobody to work on it any more", wait.SOON_S, function()
            return #cluster:catalog("select * from content_lease") == 0
        end)
        cluster:wait_healthy()
        assert.are.equal(dbid, cluster:primary(0).dbid)
        local primary, mirror = cluster:primary(0), cluster:mirror(0)
        assert.are.equal("t", mirror:value("pg_is_in_recovery()"))
        primary:sql("insert into grown values ('after')", { timeout_s = wait.SOON_S })
        checkup.slots(primary, mirror)
    end

    for _, step in ipairs(STEPS) do
        it("once " .. step[1] .. ", is finished or undone", function()
            local run = at_step(step, "KILL")
            run:wait(SOON_S)
            whole_again(cluster:primary(0).dbid)
        end)
    end

    it("does not wait for the lease of what is gone", function()
        local since = cluster:journal_end()
        at_step(STEPS[3], "KILL"):wait(SOON_S)
        local row = taken_over(since)
        local taken = told_of_lease(since, "^handover: .* takes content 0")
        assert.are.equal("t", cluster:coordinator():value(
            ("'%s'::timestamptz < '%s'::timestamptz + interval '20 s'"):format(row.time,
                taken.time)))
        whole_again(cluster:primary(0).dbid)
    end)

    it("is not touched while it is only stopped, and comes too late when it wakes", function()
        local since = cluster:journal_end()
        local run = at_step(STEPS[3], "STOP")
        finally(function()
            run:kill("KILL")
        end)
        local lease = cluster:catalog("select * from content_lease where content = 0")[1]
        local dbid = cluster:primary(0).dbid
        left_alone()
        local row = taken_over(since)
        assert.are.equal("t", cluster:coordinator():value(
            ("'%s'::timestamptz >= '%s'::timestamptz"):format(row.time, lease.expires)))
        whole_again(dbid)
        run:kill("CONT")
        assert.are.equal(1, run:wait(wait.SOON_S), run:output())
        whole_again(dbid)
    end)
end)
