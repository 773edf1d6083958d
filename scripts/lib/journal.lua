--- The watcher's journal: rows that nobody waits for.
---
--- Rows go to the catalog; while there is no coordinator they go, line by line, to journal.jsonl in
--- the state directory of this host, and are loaded into the catalog when it is back. What would
--- flood it is counted instead of kept: a broken server can say the same a hundred times a second.
local mr = require("moonrise")

local M = {}

local QUEUE_ROWS = 2000
local ROWS_A_MINUTE = 60
local FILE_BYTES = 16 * 2 ^ 20
local LOAD_BATCH = 200

---@class Journal
local Journal = {}
Journal.__index = Journal

--- Opens a journal and starts the task that writes it. `catalog()` gives the object of
--- lib/catalog.lua, or nil while there is none: then `file` is used; `say(kind, entry)` hears of
--- every row at once.
---@param options {catalog: function, file: string, say: function?}
---@return Journal
function M.open(options)
    local self = setmetatable({
        catalog = options.catalog, file = options.file, say = options.say or function() end,
        queue = mr.queue(), budgets = {}, closed = false, turn = mr.queue(),
    }, Journal)
    self.turn:push(true)
    self.task = mr.spawn(self.write_all, self)
    return self
end

-- A budget of rows per content and kind, filled up once a minute.
local function affordable(self, kind, entry)
    local key = kind .. ":" .. tostring(entry.content)
    local minute = math.floor(mr.clock() / 60000)
    local budget = self.budgets[key]
    if not budget or budget.minute ~= minute then
        local missed = budget and budget.missed or 0
        budget = { minute = minute, left = ROWS_A_MINUTE, missed = 0 }
        self.budgets[key] = budget
        if missed > 0 then
            entry.data = entry.data or {}
            entry.data.not_recorded = missed
        end
    end
    if budget.left == 0 then
        budget.missed = budget.missed + 1
        return false
    end
    budget.left = budget.left - 1
    return true
end

--- Adds a row; never waits.
---@param kind string
---@param entry {content: integer?, dbid: integer?, text: string, data: table?}
function Journal:add(kind, entry)
    if self.closed or not affordable(self, kind, entry) or self.queue:size() >= QUEUE_ROWS then
        return
    end
    entry.data = entry.data or {}
    entry.data.at = entry.data.at or math.floor(mr.wall())
    self.say(kind, entry)
    self.queue:push({ kind = kind, entry = entry })
end

-- One at a time: a row that is appended while the file is being loaded would go with the file.
local function in_turn(self, fn, ...)
    local mine, err = self.turn:pop()
    if not mine then
        return nil, err
    end
    local fine, result, why = pcall(fn, self, ...)
    self.turn:push(true)
    if not fine then
        error(result, 0)
    end
    return result, why
end

local function to_file(self, row)
    local stat = mr.stat(self.file)
    if stat and stat.size > FILE_BYTES then
        return nil, mr.error("space", self.file .. " is full")
    end
    return mr.append_file(self.file, mr.json_encode({
        kind = row.kind, content = row.entry.content, dbid = row.entry.dbid, text = row.entry.text,
        data = row.entry.data,
    }), true)
end

local function write_row(self, row)
    local cat = self.catalog()
    if cat and cat:journal(row.kind, row.entry) then
        return true
    end
    return in_turn(self, to_file, row)
end

function Journal:write_all()
    while true do
        local row = self.queue:pop()
        if not row or row.closed then
            return
        end
        pcall(write_row, self, row)
    end
end

local function plain(value)
    return value ~= mr.null and value or nil
end

local function row_of(line)
    local row = mr.json_decode(line)
    return type(row) == "table" and type(row.text) == "string" and type(row.kind) == "string"
        and row or nil
end

local function load_row(cat, row)
    return cat:journal(row.kind,
        { content = plain(row.content), dbid = plain(row.dbid), text = row.text,
                                   data = plain(row.data) })
end

-- Gives the catalog the rows of a text: how many it took, the lines that are left, and those that
-- are no rows.
local function load_lines(cat, text)
    local loaded, rest, unreadable = 0, {}, {}
    for line in text:gmatch("[^\n]+") do
        local row = row_of(line)
        if not row then
            table.insert(unreadable, line)
        elseif #rest == 0 and load_row(cat, row) then
            loaded = loaded + 1
            if loaded % LOAD_BATCH == 0 then
                mr.sleep(0)
            end
        else
            table.insert(rest, line)
        end
    end
    return loaded, rest, unreadable
end

local function load_file(self, cat)
    local text, err = mr.read_file(self.file, FILE_BYTES * 2)
    if not text then
        return err.code == "notfound" and 0 or nil, err
    end
    local loaded, rest, unreadable = load_lines(cat, text)
    if #unreadable > 0 and not mr.append_file(self.file .. ".unreadable",
        table.concat(unreadable, "\n"), true) then
        for _, line in ipairs(unreadable) do
            table.insert(rest, line)
        end
    end
    if #rest == 0 then
        mr.remove_file(self.file)
    else
        mr.write_file(self.file, table.concat(rest, "\n") .. "\n")
    end
    return loaded
end

--- Loads what was written while there was no coordinator, and removes the file. After a failure
--- what is left stays in the file. Lines that are no rows (a torn one after a crash) go to the file
--- beside it whose name ends in .unreadable.
---@param cat table
---@return integer? loaded
---@return Error? err
function Journal:load(cat)
    return in_turn(self, load_file, cat)
end

--- Writes what is queued, for at most so long, and ends.
---@param timeout_ms number
function Journal:close(timeout_ms)
    if not self.closed then
        self.closed = true
        self.queue:push({ closed = true })
        self.task:wait(timeout_ms)
    end
end

return M
