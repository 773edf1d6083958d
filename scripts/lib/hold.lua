--- Holding the lease of a content while something is done to its pair.
---
--- The watcher leaves a held content alone, and completes or undoes the step when the lease
--- expires, so the lease is renewed for as long as the work goes on and no longer.
local mr = require("moonrise")

local M = {}

M.TTL_MS = 30000
local RENEW_MS = 10000

local function interval(ms)
    return ("%d milliseconds"):format(ms)
end

local function renew(cat, lease)
    while not lease.over do
        mr.sleep(RENEW_MS)
        if not lease.over then
            cat:call("lease_step", lease.token, lease.step, interval(M.TTL_MS))
        end
    end
end

--- The text that says who we are in a lease.
---@return string
function M.holder()
    local me = mr.whoami()
    return ("%s@%s pid %d"):format(me.user, me.hostname, me.pid)
end

-- Whether a holder's text names a process of this host that is gone; a zombie is.
local function is_gone(holder)
    local me = mr.whoami()
    local host, pid = holder:match("@(%S+) pid (%d+)$")
    if host ~= me.hostname then
        return false
    end
    local stat = mr.read_file(("/proc/%s/stat"):format(pid), 4096)
    return stat == nil or stat:match("%) [ZX] ") ~= nil
end

-- The lease of a recovery whose command was killed is nobody's: its agent went with it, and the
-- next recovery goes on where it was. What a handover left is finished or undone by the watcher.
local function drop_orphan(cat, content)
    for _, lease in ipairs(cat:leases() or {}) do
        if lease.content == content and lease.intent == "recover" and is_gone(lease.holder) then
            return cat:call("lease_drop", lease.token)
        end
    end
    return nil
end

--- Takes the lease of a content; that of a recovery whose command is gone is taken over.
---@param cat table
---@param content integer
---@param intent string
---@param step string
---@return integer? token
---@return Error? err code "busy" when somebody else holds it
function M.take(cat, content, intent, step)
    local function try()
        return cat:call("lease_take", content, M.holder(), intent, step, interval(M.TTL_MS))
    end
    local token, err = try()
    if not token and err.code == "busy" and drop_orphan(cat, content) then
        token, err = try()
    end
    return token, err
end

--- Runs fn(lease) while holding the content's lease; lease.token is for the catalog's transitions
--- and lease:set(step) records how far the work is. The lease is dropped whatever fn returns or
--- raises.
---@param ctx table
---@param content integer
---@param intent string
---@param step string
---@param fn function
---@return any ... what fn returned; nil, err (code "busy") when somebody else holds it
function M.content(ctx, content, intent, step, fn)
    local cat = ctx.cat
    local token, err = M.take(cat, content, intent, step)
    if not token then
        return nil, err
    end
    local lease = { token = token, step = step }
    function lease.set(self, name)
        self.step = name
        return cat:call("lease_step", token, name, interval(M.TTL_MS))
    end
    local renewer = mr.spawn(renew, cat, lease)
    local results = { pcall(fn, lease) }
    lease.over = true
    renewer:cancel()
    if not lease.keep then
        cat:call("lease_drop", token)
    end
    if not results[1] then
        error(results[2], 0)
    end
    return unpack(results, 2, table.maxn(results))
end

return M
