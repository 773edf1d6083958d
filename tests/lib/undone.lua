--- What a test does is undone by itself or, when it fails before that, after it.
---
---     local undone = require("tests.lib.undone").new()
---     local mend = undone:once(lab:cut("sdw1", "sdw2"))
---     after_each(function() undone:all() end)

local M = {}
local Undone = {}
Undone.__index = Undone

---@return table undone
function M.new()
    return setmetatable({ list = {} }, Undone)
end

--- Takes a function that undoes something.
---@param fn fun()
---@return fun() once calls it the first time, and never again
function Undone:once(fn)
    local done
    local function first()
        if not done then
            done = true
            fn()
        end
    end
    table.insert(self.list, first)
    return first
end

--- Undoes what a test has left.
function Undone:all()
    local list = self.list
    self.list = {}
    for _, fn in ipairs(list) do
        fn()
    end
end

return M
