--- A ledger of commits: what became of every row that a writer tried to insert.
---
--- Three columns: acknowledged (COMMIT returned), refused (an error came before COMMIT was sent, so
--- nothing can be there), unknown (COMMIT was sent and its answer was an error, or never came:
--- either outcome is right). An acknowledged row that is missing, or a refused one that is present,
--- is a fault.
local M = {}

---@class Ledger
local Ledger = {}
Ledger.__index = Ledger

---@return Ledger
function M.new()
    return setmetatable({
        next_id = 1, state = {}, counts = { acknowledged = 0, refused = 0, unknown = 0 },
    }, Ledger)
end

--- A new row's id.
---@return integer
function Ledger:take()
    local id = self.next_id
    self.next_id = id + 1
    self.state[id] = "open"
    return id
end

--- Records what became of a row: "acknowledged", "refused" or "unknown".
---@param id integer
---@param outcome string
function Ledger:record(id, outcome)
    assert(self.counts[outcome], "no such outcome: " .. tostring(outcome))
    assert(self.state[id] == "open", "the row has an outcome already")
    self.state[id] = outcome
    self.counts[outcome] = self.counts[outcome] + 1
end

--- Holds the ledger against the ids that are in the tables. Rows still open count as unknown.
---@param present table<integer, integer> id -> how often it is there
---@return {acknowledged: integer, refused: integer, unknown: integer, missing: integer[], ghosts: integer[], twice: integer[], strangers: integer[]}
function Ledger:compare(present)
    local result = { acknowledged = self.counts.acknowledged, refused = self.counts.refused,
                     unknown = self.counts.unknown, missing = {}, ghosts = {}, twice = {},
                     strangers = {} }
    for id = 1, self.next_id - 1 do
        local state, there = self.state[id], present[id]
        if state == "open" then
            result.unknown = result.unknown + 1
        elseif state == "acknowledged" and not there then
            table.insert(result.missing, id)
        elseif state == "refused" and there then
            table.insert(result.ghosts, id)
        end
        if there and there > 1 then
            table.insert(result.twice, id)
        end
    end
    for id in pairs(present) do
        if not self.state[id] then
            table.insert(result.strangers, id)
        end
    end
    return result
end

--- Whether a comparison shows a fault.
---@param result table
---@return boolean
function M.sound(result)
    return #result.missing + #result.ghosts + #result.twice + #result.strangers == 0
end

return M
