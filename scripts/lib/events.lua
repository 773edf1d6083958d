--- What happened, from two sources: the catalog's history of configurations and the journal, in one
--- order. Pure.
local term_table = require("lib.term").table

local M = {}

---@class Event
---@field at number milliseconds since 1970
---@field time string as it is shown
---@field source "configuration"|"journal"|"file" (journal rows that wait for a coordinator)
---@field kind string
---@field content? integer
---@field dbid? integer
---@field text string

local function before(a, b)
    if a.at ~= b.at then
        return a.at < b.at
    end
    return a.order < b.order
end

--- Puts lists of events into one order, oldest first, and keeps the last `count` of them.
---@param lists Event[][]
---@param count integer
---@param content? integer only this one's
---@return Event[]
function M.merge(lists, count, content)
    local all = {}
    for _, list in ipairs(lists) do
        for _, event in ipairs(list) do
            if content == nil or event.content == content then
                -- What happened in one transaction bears one time: it stays as it was listed.
                event.order = #all
                table.insert(all, event)
            end
        end
    end
    table.sort(all, before)
    local kept = {}
    for i = math.max(1, #all - count + 1), #all do
        all[i].order = nil
        table.insert(kept, all[i])
    end
    return kept
end

--- The events' lines, for people.
---@param events Event[]
---@return string[]
function M.lines(events)
    local rows = {}
    for _, event in ipairs(events) do
        -- One event is one line, whatever a server put into its message.
        table.insert(rows, { event.time, event.content or "", event.dbid or "", event.kind,
                             (event.text:gsub("%s*\n%s*", " ")) })
    end
    return term_table({ "Time", "Content", "Dbid", "Kind", "What" }, rows)
end

return M
