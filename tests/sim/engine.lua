--- What the module `moonrise` is in a simulated process: tasks, queues and waiting on the virtual
--- clock; what only computes is the real one's.
local real = require("moonrise")

local M = {}

local Task, Queue, Prober = {}, {}, {}
Task.__index, Queue.__index, Prober.__index = Task, Queue, Prober

local function cancelled()
    return real.error("cancelled", "cancelled")
end

local function advance(task, ...)
    local before = task.engine.running
    task.engine.running = task
    local results = { coroutine.resume(task.thread, ...) }
    task.engine.running = before
    if coroutine.status(task.thread) ~= "dead" then
        return
    end
    task.done, task.results = true, results
    if not results[1] and not task.joined then
        task.engine.process.world:fault(debug.traceback(task.thread, tostring(results[2])))
    end
    for _, wake in ipairs(task.waiters) do
        wake()
    end
end

-- Has the running task wait until it is woken by the function that begin() gets, with values, or
-- until the time is up.
local function wait(engine, timeout_ms, begin)
    local task = engine.running or error("this waits outside of a task", 2)
    if task.cancelled then
        task.cancelled = false
        return nil, cancelled()
    end
    local over, timer = false, nil
    local function wake(...)
        if over then
            return false
        end
        over, task.abort = true, nil
        if timer then
            timer.off = true
        end
        local values = { n = select("#", ...), ... }
        engine.process:after(0, function()
            advance(task, unpack(values, 1, values.n))
        end)
        return true
    end
    if timeout_ms then
        timer = engine.process:after(timeout_ms, function()
            wake(nil, real.error("timeout", "not in time"))
        end)
    end
    task.abort = function()
        wake(nil, cancelled())
    end
    begin(wake)
    return coroutine.yield()
end

function Task:cancel()
    if self.done then
        return
    elseif self.abort then
        self.abort()
    else
        self.cancelled = true
    end
end

function Task:wait(timeout_ms)
    self.joined = true
    if not self.done then
        local _, err = wait(self.engine, timeout_ms, function(wake)
            table.insert(self.waiters, function()
                wake(true)
            end)
        end)
        if err then
            return nil, err
        end
    end
    if not self.results[1] then
        error(self.results[2], 0)
    end
    return unpack(self.results, 2, table.maxn(self.results))
end

function Queue:push(value)
    while self.waiting[1] do
        if table.remove(self.waiting, 1)(value) then
            return
        end
    end
    table.insert(self.values, { value })
end

function Queue:pop(timeout_ms)
    if self.values[1] then
        return table.remove(self.values, 1)[1]
    end
    return wait(self.engine, timeout_ms, function(wake)
        table.insert(self.waiting, wake)
    end)
end

function Queue:size()
    return #self.values
end

local function spawn(engine, fn, ...)
    local task = setmetatable({ engine = engine, thread = coroutine.create(fn), waiters = {} },
        Task)
    local given = { n = select("#", ...), ... }
    engine.process:after(0, function()
        advance(task, unpack(given, 1, given.n))
    end)
    return task
end

local function parallel(engine, items, fn)
    local tasks, results = {}, {}
    for i, item in ipairs(items) do
        tasks[i] = spawn(engine, fn, item, i)
    end
    for i, task in ipairs(tasks) do
        local ok, value, err = pcall(task.wait, task)
        results[i] = ok and value or { error = ok and err or value }
    end
    return results
end

function Prober:set(dbid)
    local target = { server = self.world.servers[dbid] }
    self.targets[dbid] = target
    local function turn()
        if self.targets[dbid] == target then
            self.world.probes.ask(self, target, dbid)
            self.process:after(self.spec.interval_ms, turn)
        end
    end
    target.server:watch(self.process, function()
        if self.targets[dbid] == target then
            self.world.probes.broken(self, target, dbid)
        end
    end)
    turn()
end

function Prober:drop(dbid)
    self.targets[dbid] = nil
end

function Prober:now(dbid)
    local target = self.targets[dbid]
    if target then
        self.world.probes.ask(self, target, dbid)
    end
end

function Prober:close()
    self.targets = {}
end

-- What has to do with time.
local function timed(mr, engine)
    local clock = engine.process.world.clock
    function mr.clock()
        return clock.now
    end
    function mr.wall()
        return 1.7e12 + clock.now
    end
    function mr.sleep(ms)
        local _, err = wait(engine, ms, function() end)
        if err.code == "timeout" then
            return true
        end
        return nil, err
    end
    function mr.spawn(fn, ...)
        return spawn(engine, fn, ...)
    end
    function mr.queue()
        return setmetatable({ engine = engine, values = {}, waiting = {} }, Queue)
    end
    function mr.parallel(items, _, fn)
        return parallel(engine, items, fn)
    end
    --- Waits for something outside of the process: begin(answer) has answer(...) called there.
    function mr.await(timeout_ms, begin)
        return wait(engine, timeout_ms, begin)
    end
end

--- The module for a process.
---@param process table
---@param connect? function what mr.connect is
---@return table moonrise
function M.new(process, connect)
    local world = process.world
    local mr = setmetatable({ connect = connect }, { __index = real })
    timed(mr, { process = process, running = nil })
    function mr.prober(spec)
        return setmetatable({ spec = spec, targets = {}, world = world, process = process },
            Prober)
    end
    function mr.on_signal() end
    function mr.make_dir()
        return true
    end
    function mr.whoami()
        return { user = "sim", hostname = "sim", pid = process.pid, uid = 1 }
    end
    --- Of files only /proc/PID/stat is there.
    function mr.read_file(path)
        local pid = tonumber(path:match("^/proc/(%d+)/stat$"))
        return world.alive[pid] and ("%d (sim) S 1"):format(pid) or nil
    end
    return mr
end

return M
