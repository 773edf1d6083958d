--- Chance that can be had again: MOONRISE_SEED=N repeats a run, and every failure tells its seed.

local wait = require("tests.lib.wait")

local M = {}
local Dice = {}
Dice.__index = Dice

local function fresh_seed()
    local random = io.open("/dev/urandom", "rb")
    local a, b, c = random:read(3):byte(1, 3)
    random:close()
    return a * 65536 + b * 256 + c
end

---@param given? integer the seed; by default MOONRISE_SEED or a fresh one
---@return table dice {seed}
function M.new(given)
    local seed = given or tonumber(os.getenv("MOONRISE_SEED")) or fresh_seed()
    return setmetatable({ seed = seed, state = seed }, Dice)
end

--- A number from 0 up to, not including, `limit`.
---@param limit number
---@return number
function Dice:number(limit)
    self.state = (self.state * 1103515 + 12345) % 16777216
    return self.state / 16777216 * limit
end

---@param list any[]
---@return any
function Dice:pick(list)
    return list[math.floor(self:number(#list)) + 1]
end

--- Waits for a time, or until fn() is true.
---@param most_s number
---@param fn? fun(): any
function Dice:pause(most_s, fn)
    local till = wait.now() + self:number(most_s)
    wait.eventually("the moment", most_s + 1, function()
        return wait.now() >= till or fn and fn()
    end)
end

--- Kills a program at any moment of so long, unless it ends before.
---@param program table of tests/lib/place.lua
---@param most_s number
function Dice:kill(program, most_s)
    self:pause(most_s, function()
        return program:code()
    end)
    program:kill("KILL")
end

--- Runs fn and adds the seed and what was thrown to the error it raises.
---@param story string
---@param fn fun()
function Dice:told(story, fn)
    local ok, problem = xpcall(fn, function(message)
        local text = type(message) == "table" and tostring(message.message or message) or message
        return debug.traceback(("%s (MOONRISE_SEED=%d)\n%s"):format(story, self.seed, text))
    end)
    if not ok then
        error(problem, 0)
    end
end

return M
