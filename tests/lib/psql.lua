--- SQL through psql: one statement after another, or a session that stays open.

local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local M = {}
local Session = {}
Session.__index = Session

local FIELD, RECORD, NULL = "\31", "\30", "\29"

local function argv_of(target, more)
    local argv = { target.bin .. "/psql", "-X", "-q", "-A", "-d", M.conninfo(target) }
    for _, word in ipairs(more) do
        argv[#argv + 1] = word
    end
    return argv
end

--- A libpq connection string for a target {host, port, dbname?, user?, ...}.
---@param target table
---@return string
function M.conninfo(target)
    local words = {}
    for _, key in ipairs({ "host", "port", "dbname", "user", "passfile", "connect_timeout" }) do
        local value = target[key] or (key == "dbname" and "postgres") or
            (key == "connect_timeout" and 5) or nil
        if value then
            words[#words + 1] = ("%s='%s'"):format(key, value)
        end
    end
    return table.concat(words, " ")
end

local function split(text, separator)
    local parts = {}
    for part in (text .. separator):gmatch("(.-)" .. separator) do
        parts[#parts + 1] = part
    end
    return parts
end

local function rows_of(out)
    local rows, names = {}, nil
    for _, record in ipairs(split(out:gsub("\n$", ""), RECORD)) do
        local fields = split(record, FIELD)
        if names then
            local row = {}
            for index, value in ipairs(fields) do
                row[names[index]] = value ~= NULL and value or nil
            end
            rows[#rows + 1] = row
        else
            names = fields
        end
    end
    return rows
end

--- Runs SQL: rows as tables of texts by column name (NULL is nil), or nil and what psql said.
---@param place table
---@param target table {bin, host, port, dbname?, user?}
---@param sql string
---@param options? {timeout_s: number?}
---@return table[]? rows
---@return string? message
function M.query(place, target, sql, options)
    local result = place:run(argv_of(target, { "-F", FIELD, "-R", RECORD, "-P", "null=" .. NULL,
        "-P", "footer=off", "-v", "ON_ERROR_STOP=1", "-f", "-" }), {
        stdin = sql,
        timeout_s = options and options.timeout_s or 60,
        env = options and options.env,
    })
    if result.code ~= 0 then
        return nil, result.code == 124 and "psql: timeout" or result.err
    end
    return rows_of(result.out)
end

--- A session that stays open, for transactions that something shall happen to.
---@param place table
---@param target table
---@return table session
function M.session(place, target)
    local session = setmetatable({ count = 0 }, Session)
    place.count = place.count + 1
    session.out = place:path("session-" .. place.count)
    local line = place:command_line(argv_of(target, { "-t" }))
    -- "e": programs that are started later do not hold the session open.
    session.pipe = assert(io.popen(("exec %s >%s 2>&1"):format(line, session.out), "we"))
    return session
end

--- Sends SQL and does not wait.
---@param sql string
function Session:send(sql)
    self.count = self.count + 1
    self.pipe:write(sql, ";\n\\echo done-", self.count, "\n")
    self.pipe:flush()
end

--- What the session has said since the statement before, once all that was sent is done.
---@param deadline_s? number default wait.SOON_S
---@return string text
function Session:answer(deadline_s)
    local from, to = "done-" .. (self.count - 1) .. "\n", "done-" .. self.count .. "\n"
    local deadline = deadline_s or wait.SOON_S
    return wait.eventually("the answer to statement " .. self.count, deadline, function()
        local text = place_of.read(self.out) or ""
        local stop = text:find(to, 1, true)
        local _, start = text:find(from, 1, true)
        return stop and text:sub((start or 0) + 1, stop - 1), text
    end)
end

---@param sql string
---@param deadline_s? number
---@return string text
function Session:ask(sql, deadline_s)
    self:send(sql)
    return self:answer(deadline_s)
end

function Session:close()
    if self.pipe then
        self.pipe:close()
        self.pipe = nil
    end
end

return M
