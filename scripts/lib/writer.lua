--- Writers that insert rows through the coordinator, one single-shard transaction each, into a
--- ledger.
---
--- BEGIN; INSERT; COMMIT are sent one by one, because only then it is known on which side of the
--- COMMIT an error fell: before it the row is refused, from it on its fate is unknown until the
--- tables are read.
local mr = require("moonrise")

local M = {}

---@class Writer
---@field ledger table
---@field last_error? Error
local Writer = {}
Writer.__index = Writer

local STATEMENT_TIMEOUT_MS = 30000

---@class WriterOptions
---@field conn ConnOptions where to connect
---@field ledger table lib/ledger.lua
---@field sql string an INSERT with $1 the id
---@field sessions integer
---@field pause_ms? number between a session's transactions (default 0)
---@field on_ack? function (id, at) called for each acknowledged row
---@field wanted? function (id) -> boolean: whether this id is to be written (for one shard only)

local function broken(conn)
    return not conn or not conn:is_open()
end

-- One transaction: "acknowledged", "refused" or "unknown", and the error of the latter two.
local function transact(conn, sql, id)
    local options = { timeout_ms = STATEMENT_TIMEOUT_MS }
    local ok, err = conn:query("BEGIN", nil, options)
    if ok then
        ok, err = conn:query(sql, { id }, options)
    end
    if not ok then
        if conn:is_open() then
            conn:query("ROLLBACK", nil, options)
        end
        return "refused", err
    end
    ok, err = conn:query("COMMIT", nil, options)
    if not ok then
        return "unknown", err
    end
    -- The answer to COMMIT in a failed transaction is ROLLBACK.
    return ok.command == "COMMIT" and "acknowledged" or "refused"
end

function Writer:session()
    local conn
    while not self.stopping do
        if broken(conn) then
            self.reconnects = self.reconnects + 1
            local err
            conn, err = mr.connect(self.options.conn)
            if not conn then
                self.last_error = err
                mr.sleep(20)
            end
        else
            local id = self.ledger:take()
            local outcome, err = transact(conn, self.options.sql, id)
            self.ledger:record(id, outcome)
            self.last_error = err or self.last_error
            if outcome == "acknowledged" then
                if self.options.on_ack then
                    self.options.on_ack(id, mr.clock())
                end
            else
                mr.sleep(5)
            end
            if self.options.pause_ms then
                mr.sleep(self.options.pause_ms)
            end
        end
    end
    if conn then
        conn:close()
    end
end

--- Starts the sessions.
---@param options WriterOptions
---@return Writer
function M.start(options)
    local self = setmetatable({
        options = options, ledger = options.ledger, tasks = {}, reconnects = 0,
    }, Writer)
    for i = 1, options.sessions do
        self.tasks[i] = mr.spawn(self.session, self)
    end
    return self
end

--- Lets every session finish its transaction and waits for them.
---@param timeout_ms? number default 60 s
---@return boolean all_ended
function Writer:stop(timeout_ms)
    self.stopping = true
    local deadline = mr.clock() + (timeout_ms or 60000)
    local all = true
    for _, task in ipairs(self.tasks) do
        local _, err = task:wait(math.max(deadline - mr.clock(), 1))
        if err and err.code == "timeout" then
            task:cancel()
            all = false
        end
    end
    return all
end

return M
