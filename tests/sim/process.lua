--- Processes of the simulated machine: what happens in one happens in its time, not while it is
--- stopped, and not after it was killed.
---
--- A program is loaded into a process with modules of its own, as every real process has its own
--- state; `moonrise` is what tests/sim/engine.lua makes of it there.
local copy = require("tests.lib.copy")

local M = {}

local Process = {}
Process.__index = Process

--- A process that runs.
---@param world table {clock}
---@param name string
---@return table process {alive, stopped}
function M.new(world, name)
    world.pids = (world.pids or 100) + 1
    return setmetatable({ world = world, name = name, pid = world.pids, alive = true,
        stopped = false, missed = {}, ends = {} }, Process)
end

local function happen(self, fn)
    if not self.alive then
        return
    elseif self.stopped then
        table.insert(self.missed, fn)
    else
        fn()
    end
end

--- Has fn() called in this process so many milliseconds from now.
---@param ms number
---@param fn function
---@return table event as the clock's
function Process:after(ms, fn)
    return self.world.clock:after(ms, function()
        happen(self, fn)
    end)
end

--- SIGSTOP.
function Process:stop()
    self.stopped = true
end

--- SIGCONT: what it missed happens at once, in its order.
function Process:continue()
    if not self.stopped or not self.alive then
        return
    end
    self.stopped = false
    local missed = self.missed
    self.missed = {}
    for _, fn in ipairs(missed) do
        self:after(0, fn)
    end
end

--- SIGKILL.
function Process:kill()
    if not self.alive then
        return
    end
    self.alive, self.missed = false, {}
    for _, fn in ipairs(self.ends) do
        fn()
    end
end

--- Has fn() called when the process is killed.
---@param fn function
function Process:on_end(fn)
    table.insert(self.ends, fn)
end

local sources = {}

-- A module as its file has it, read once.
local function chunk_of(name)
    if not sources[name] then
        local path = ("scripts/%s.lua"):format(name:gsub("%.", "/"))
        sources[name] = { code = string.dump(assert(loadfile(path))), path = path }
    end
    return assert(loadstring(sources[name].code, "@" .. sources[name].path))
end

--- A function that loads modules into this process: `given` are there already, everything else is
--- made anew from its file in scripts/.
---@param given table<string, any>
---@return fun(name: string): any
function M.loader(given)
    local loaded = copy(given)
    local function load(name)
        if loaded[name] == nil then
            local chunk = chunk_of(name)
            setfenv(chunk, setmetatable({ require = load }, { __index = _G }))
            loaded[name] = chunk(name)
        end
        return loaded[name]
    end
    return load
end

return M
