--- Agents as scripts see them: a real agent process and its session.
local mr = require("moonrise")

local place_of = require("tests.lib.place")
local turns = require("tests.lib.turns")

local main = turns.main

describe("an agent", function()
    local place

    setup(function()
        place = place_of.new()
    end)

    teardown(place_of.close_all)

    it("answers calls, many at a time", main(function()
        local agent = mr.check(mr.agent())
        assert.is_true(agent:is_open())
        local pids = mr.parallel({ 1, 2, 3, 4, 5 }, 5, function()
            return mr.check(agent:call("hello")).pid
        end)
        for i = 1, 5 do
            assert.equals(agent:pid(), pids[i])
        end
        agent:close()
        assert.is_false(agent:is_open())
    end))

    it("refuses what it does not know, and says so", main(function()
        local agent = mr.check(mr.agent())
        local result, err = agent:call("no_such_operation", { a = 1 })
        assert.is_nil(result)
        assert.matches("no_such_operation", err.message)
        assert.is_true(agent:is_open())
    end))

    it("whose call ends well although it was cancelled lets no other begin", main(function()
        local agent = mr.check(mr.agent())
        mr.check(agent:call("hello"))
        local steps, last = 0, nil
        local task = mr.spawn(function()
            while steps < 4 and not last do
                local word, err = agent:call("inspect",
                    { datadir = "/no/such/dir", port = 1, bin = "/usr/bin" })
                steps = steps + (word and 1 or 0)
                last = err
            end
        end)
        turns.turn()
        task:cancel()
        task:wait()
        assert.is_true(steps <= 1)
        assert.equals("cancelled", last and last.code)
    end))

    it("gives null fields as nil and lists as lists", main(function()
        local agent = mr.check(mr.agent())
        local result = mr.check(agent:call("inspect",
            { datadir = "/no/such/dir", port = 1, bin = "/usr/bin" }))
        assert.equals("missing", result.kind)
        for _, value in pairs(result) do
            assert.are_not.equal(mr.null, value)
        end
    end))

    it("asks nothing more of a disk that hangs, and goes on with the rest", function()
        local dir, threads = place:path("datadir"), nil
        place:must({ "mkdir", "-p", "datadir/global" })
        place:write("datadir/PG_VERSION", "15\n")
        -- It is read until somebody writes to it, as from a disk that gives no answer.
        place:must({ "mkfifo", "datadir/moonrise.epoch" })
        local function inspect(agent, where)
            return agent:call("inspect", { datadir = where, port = 1, bin = "/usr/bin" },
                { timeout_ms = 300 })
        end
        main(function()
            local agent = mr.check(mr.agent())
            local function count()
                local _, n = place:run({ "ls", "/proc/" .. agent:pid() .. "/task" }).out
                    :gsub("%d+\n", "")
                return n
            end
            assert.equals("timeout", select(2, inspect(agent, dir)).code)
            threads = count()
            for _ = 1, 3 do
                local word, err = inspect(agent, dir)
                assert.is_nil(word)
                assert.equals("busy", err.code)
                assert.matches("disk of " .. dir:gsub("%p", "%%%0"), err.hint)
            end
            assert.equals(threads, count())
            assert.equals("missing", mr.check(inspect(agent, "/no/such/dir")).kind)
            place:must({ "mv", "datadir/moonrise.epoch", "fifo" })
            place:write("fifo", "")
            turns.eventually("the disk's answer", turns.SOON_MS, function()
                return inspect(agent, dir)
            end)
        end)()
    end)

    it("that is killed fails the calls that run and those that follow", main(function()
        local agent = mr.check(mr.agent())
        local pid = mr.check(agent:call("hello")).pid
        mr.kill(pid, "KILL")
        local result, err = agent:call("hello")
        assert.is_nil(result)
        assert.equals("connect", err.code)
        assert.is_false(agent:is_open())
        assert.equals("connect", select(2, agent:call("hello")).code)
    end))

    it("that does not speak the protocol fails its calls", main(function()
        local agent = mr.check(mr.agent({ argv = { "sh", "-c", "echo hello; exec cat" } }))
        local result, err = agent:call("hello", nil, { timeout_ms = 200 })
        assert.is_nil(result)
        assert.is_true(err.code == "protocol" or err.code == "connect" or err.code == "timeout")
    end))

    it("that hangs fails its calls in time", main(function()
        local agent = mr.check(mr.agent())
        mr.check(agent:call("hello"))
        mr.kill(agent:pid(), "STOP")
        local result, err = agent:call("hello", nil, { timeout_ms = 50 })
        assert.is_nil(result)
        assert.equals("timeout", err.code)
        agent:close()
    end))

    -- One that is stopped, and a call that waits for it.
    local function unanswered()
        local agent = mr.check(mr.agent())
        local pid = mr.check(agent:call("hello")).pid
        mr.kill(pid, "STOP")
        return agent, turns.begin(agent.call, agent, "hello"), pid
    end

    it("ends when it is closed, and with it the calls", main(function()
        local agent, task, pid = unanswered()
        agent:close()
        assert.equals("cancelled", select(2, task:wait()).code)
        turns.eventually("the agent to end", turns.SOON_MS, function()
            return not mr.kill(pid, "0")
        end)
    end))

    it("is asked to stop when its caller is cancelled; its answer is awaited", main(function()
        local _, task, pid = unanswered()
        task:cancel()
        assert.equals("timeout", select(2, task:wait(5)).code)
        mr.kill(pid, "CONT")
        local result, err = task:wait(20000)
        assert.is_true(type(result) == "table" or err.code == "cancelled")
    end))

    it("cancelled twice is left at once", main(function()
        local _, task = unanswered()
        task:cancel()
        task:cancel()
        assert.equals("cancelled", select(2, task:wait(1000)).code)
    end))

    it("that cannot be started is an error", main(function()
        local agent, err = mr.agent({ argv = { "/no/such/program" } })
        assert.is_nil(agent)
        assert.equals("notfound", err.code)
    end))

    it("that nobody refers to any more is ended", main(function()
        local pid = mr.check(mr.check(mr.agent()):call("hello")).pid
        collectgarbage()
        collectgarbage()
        turns.eventually("the agent to end", turns.SOON_MS, function()
            return not mr.kill(pid, "0")
        end)
    end))

    it("refuses wrong use", main(function()
        local agent = mr.check(mr.agent())
        for _, case in ipairs({ {}, { "hello", 1 }, { "hello", { print } }, { "hello", { 1, 2 } },
            { "hello", { a = "\255" } }, { "hello", {}, { timeout = 1 } },
            { "hello", {}, { progress = 1 } } }) do
            assert.has_error(function()
                agent:call(unpack(case))
            end)
        end
        assert.has_error(function()
            mr.agent({ argv = "moonrise" })
        end)
        assert.is_table(agent:call("hello", {}))
    end))
end)
