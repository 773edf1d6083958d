--- Tasks, queues, parallel.
local mr = require("moonrise")

local turns = require("tests.lib.turns")

local main = turns.main

describe("a task", function()
    it("runs beside its maker, beginning at the next wait", main(function()
        local order = {}
        local task = mr.spawn(function(...)
            order[#order + 1] = "task"
            turns.turn()
            order[#order + 1] = "task again"
            return ...
        end, 1, nil, 3)
        order[#order + 1] = "maker"
        assert.is_false(task:done())
        assert.same({ n = 3, 1, nil, 3 }, (function(...)
            return { n = select("#", ...), ... }
        end)(task:wait()))
        assert.is_true(task:done())
        assert.same({ "maker", "task", "task again" }, order)
        assert.equals(1, (task:wait()))
    end))

    it("that raises text gives an error with code raised and a traceback", main(function()
        local value, err = mr.spawn(function()
            turns.turn()
            error("oops")
        end):wait()
        assert.is_nil(value)
        assert.equals("raised", err.code)
        assert.matches("task_spec.lua:%d+: oops", err.message)
        assert.matches("task_spec.lua", err.traceback)
    end))

    it("that raises an error value keeps its fields", main(function()
        local raised = mr.error("busy", "taken", { hint = "wait", instance = "dbid 3" })
        local _, err = mr.spawn(error, raised):wait()
        assert.equals(raised, err)
        assert.equals("taken (wait)", tostring(err))
        assert.equals("dbid 3", err.instance)
    end))

    it("that raises something else is reported without calling it", main(function()
        local _, err = mr.spawn(error, setmetatable({}, { __tostring = function()
            error("again")
        end })):wait()
        assert.equals("a table was raised", err.message)
    end))

    it("can be waited for by many", main(function()
        local go = mr.queue()
        local task = mr.spawn(function()
            return go:pop()
        end)
        local results = mr.parallel({ 1, 2, 3 }, 3, function(index)
            if index == 3 then
                mr.spawn(go.push, go, "x")
            end
            return task:wait()
        end)
        assert.same({ "x", "x", "x" }, results)
    end))

    it("goes on when a wait for it times out", main(function()
        local go = mr.queue()
        local task = mr.spawn(function()
            return go:pop()
        end)
        local value, err = task:wait(1)
        assert.is_nil(value)
        assert.equals("timeout", err.code)
        go:push("done")
        assert.equals("done", task:wait(5000))
    end))

    it("cannot wait for itself", main(function()
        local task
        task = mr.spawn(function()
            return task:wait()
        end)
        local _, err = task:wait()
        assert.matches("cannot wait for itself", err.message)
    end))

    it("that is cancelled sees its operation fail, and may go on", main(function()
        local task = mr.spawn(function()
            local _, err = turns.linger()
            turns.turn()
            return err.code
        end)
        turns.turn()
        task:cancel()
        assert.equals("cancelled", task:wait())
    end))

    it("that is cancelled before it began never does", main(function()
        local begun = false
        local task = mr.spawn(function()
            begun = true
        end)
        task:cancel()
        local _, err = task:wait()
        assert.equals("cancelled", err.code)
        assert.is_false(begun)
    end))

    it("that is cancelled between two waits sees it at the next one", main(function()
        local first = mr.queue()
        local task = mr.spawn(function()
            local got = first:pop()
            local _, err = turns.linger()
            return got, err.code
        end)
        turns.turn()
        first:push("x")
        task:cancel()
        assert.same({ "x", "cancelled" }, { task:wait() })
    end))

    it("that is ready does not wait for the next thing to happen", main(function()
        local start = mr.clock()
        mr.spawn(mr.sleep, 20000)
        local task, other = mr.spawn(mr.sleep, 1), mr.spawn(mr.sleep, 1)
        other:wait()
        task:wait()
        assert.is_true(mr.clock() - start < 10000)
    end))

    it("can be forgotten while it runs", main(function()
        local queue = mr.queue()
        for i = 1, 50 do
            mr.spawn(function()
                mr.queue():pop(i % 7)
                queue:push(i)
            end)
        end
        collectgarbage()
        collectgarbage()
        local sum = 0
        for _ = 1, 50 do
            sum = sum + queue:pop(5000)
        end
        assert.equals(50 * 51 / 2, sum)
    end))

    it("refuses wrong use at the caller's line", main(function()
        local ok, err = pcall(function()
            mr.spawn("x")
        end)
        assert.is_false(ok)
        assert.matches("task_spec.lua:%d+: bad argument #1 to 'spawn'", err)
        ok, err = pcall(mr.sleep, -1)
        assert.is_false(ok)
        assert.matches("milliseconds out of range", err)
    end))
end)

describe("a queue", function()
    it("gives values in their order, to whoever waits longest", main(function()
        local queue, got = mr.queue(), {}
        for i = 1, 3 do
            mr.spawn(function()
                got[i] = queue:pop()
            end)
        end
        turns.turn()
        for i = 1, 5 do
            queue:push("value " .. i)
        end
        assert.equals(2, queue:size())
        turns.turn()
        assert.same({ "value 1", "value 2", "value 3" }, got)
        assert.equals("value 4", queue:pop())
        assert.equals("value 5", queue:pop())
        assert.equals(0, queue:size())
    end))

    it("gives up after its time, and what comes later stays", main(function()
        local queue = mr.queue()
        local value, err = queue:pop(2)
        assert.is_nil(value)
        assert.equals("timeout", err.code)
        queue:push(false)
        assert.is_false(queue:pop(0))
    end))

    it("keeps its pace when this process was away", main(function()
        local order, ended = {}, mr.queue()
        local never = mr.spawn(function()
            return mr.queue():pop()
        end)
        mr.spawn(function()
            mr.queue():pop(300)
            ended:push("queue")
        end)
        -- Somebody else's time to answer is given back.
        mr.spawn(function()
            never:wait(350)
            ended:push("deadline")
        end)
        turns.turn()
        local back = mr.clock() + 600
        while mr.clock() < back do end
        order[1], order[2] = ended:pop(), ended:pop()
        never:cancel()
        assert.same({ "queue", "deadline" }, order)
    end))

    it("loses nothing when who waits for it is cancelled", main(function()
        local queue = mr.queue()
        local task = mr.spawn(function()
            return queue:pop()
        end)
        turns.turn()
        task:cancel()
        queue:push("kept")
        assert.equals("cancelled", select(2, task:wait()).code)
        assert.equals("kept", queue:pop(0))
    end))

    it("refuses nil", main(function()
        assert.has_error(function()
            mr.queue():push(nil)
        end)
    end))
end)

describe("parallel", function()
    it("runs so many at a time and keeps the order of the results", main(function()
        local running, most = 0, 0
        local results = mr.parallel({ 5, 4, 3, 2, 1 }, 2, function(count, index)
            running = running + 1
            most = math.max(most, running)
            for _ = 1, count do
                turns.turn()
            end
            running = running - 1
            return index * 10
        end)
        assert.same({ 10, 20, 30, 40, 50 }, results)
        assert.equals(2, most)
    end))

    it("reports what failed beside what did not", main(function()
        local results = mr.parallel({ "ok", "raise", "fail", "ok" }, 4, function(what)
            if what == "raise" then
                error("raised here")
            elseif what == "fail" then
                return nil, mr.error("io", "failed here")
            end
            return what
        end)
        assert.equals("ok", results[1])
        assert.matches("raised here", results[2].error.message)
        assert.equals("io", results[3].error.code)
        assert.equals("ok", results[4])
    end))

    it("has nothing to do for no items", main(function()
        assert.same({}, mr.parallel({}, 1, error))
    end))

    it("that was cancelled tells of it once: in an item, or at the next wait", main(function()
        for _, heeds in ipairs({ true, false }) do
            local task = turns.begin(function()
                mr.parallel({ 1 }, 1, function()
                    local _, err = turns.linger()
                    return not heeds or nil, err
                end)
                return select(2, mr.queue():pop(1))
            end)
            turns.turn()
            task:cancel()
            local err = task:wait(5000)
            assert.equals(heeds and "timeout" or "cancelled", err.code)
        end
    end))

    it("cancels what runs and begins nothing new when it is cancelled", main(function()
        local begun = 0
        local task = mr.spawn(function()
            return mr.parallel({ 1, 2, 3, 4 }, 2, function()
                begun = begun + 1
                return turns.linger()
            end)
        end)
        turns.eventually("two to begin", turns.SOON_MS, function()
            return begun == 2
        end)
        task:cancel()
        local results = task:wait(5000)
        assert.equals(2, begun)
        for i = 1, 4 do
            assert.equals("cancelled", results[i].error.code)
        end
    end))

    it("can be nested", main(function()
        local results = mr.parallel({ 1, 2, 3 }, 3, function(a)
            local inner = mr.parallel({ 1, 2 }, 1, function(b)
                turns.turn()
                return a * b
            end)
            return inner[1] + inner[2]
        end)
        assert.same({ 3, 6, 9 }, results)
    end))

    it("left behind with its items is ended with the main task", function()
        mr.main(function()
            local begun = mr.queue()
            mr.spawn(mr.parallel, { 1, 2, 3 }, 2, function()
                begun:push(true)
                turns.linger()
            end)
            begun:pop()
            begun:pop()
        end)
        assert.equals(0, mr._handles())
    end)
end)
