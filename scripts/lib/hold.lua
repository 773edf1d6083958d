--- Holding the lease of a content while something is done to its pair.
---
--- The watcher leaves a held content alone, and completes or undoes the step when the lease
--- expires, so the lease is renewed for as long as the work goes on and no longer.
local finally = require("lib.finally")
local mr = require("moonrise")
local term = require("lib.term")

local M = {}

local TTL_MS, RENEW_MS, RETRY_MS = 30000, 10000, 1000
-- To take a lease that others give up or take at the same time.
local TRIES = 3
-- No process of Linux has a greater id.
local PID_MAX = 4194304

-- Their work ends with their command, and the next one finds out by itself how far it was.
local ENDS_WITH_ITS_COMMAND = { recover = true, start = true, stop = true,
    promote = true, addmirrors = true, movemirrors = true }

--- How long a lease is taken for, as the catalog reads it.
M.TTL = ("%d milliseconds"):format(TTL_MS)

-- Each that is not lost; the last error comes back.
local function renew_each(cat, leases)
    local problem
    for key, token in pairs(leases.tokens) do
        if leases.over then
            return nil
        elseif not leases.lost[key] then
            leases.asking = true
            local ok, err = cat:call("lease_step", token, leases.step, M.TTL)
            leases.asking = false
            leases.lost[key] = not ok and err.code == "busy" or nil
            problem = not ok and err or problem
        end
    end
    return problem
end

-- What is done under a lease that is lost is refused by the catalog in the end; who waits for it
-- hears of that now.
local function renew(cat, leases)
    local pause, told = RENEW_MS, nil
    while not leases.over do
        mr.sleep(pause)
        local err = renew_each(cat, leases)
        if err and not leases.over and tostring(err) ~= told then
            told = tostring(err)
            term.warn("a lease of this command could not be renewed: %s", told)
        end
        pause = err and RETRY_MS or RENEW_MS
    end
end

--- Runs fn(leases) while the leases of leases.tokens are renewed, each with leases.step, then
--- last(), whatever fn returns or raises.
---@param cat table
---@param leases {tokens: table<any, integer>, step: string}
---@param last function
---@param fn function
---@return any ... what fn returned
function M.renewing(cat, leases, last, fn)
    leases.lost = {}
    local renewer = mr.spawn(renew, cat, leases)
    return finally(function()
        leases.over = true
        -- A statement that is withdrawn would take the catalog's session with it.
        if not leases.asking then
            renewer:cancel()
        end
        last()
    end, fn, leases)
end

-- Hosts may bear the same name, as clones do: a boot's identifier is nobody else's.
local function boot()
    return (mr.read_file("/proc/sys/kernel/random/boot_id", 4096) or ""):sub(1, 8)
end

--- The text that says who we are in a lease.
---@return string
function M.holder()
    local me = mr.whoami()
    return ("%s@%s pid %d boot %s"):format(me.user, me.hostname, me.pid, boot())
end

--- Whether a process of this host has ended. Where nobody collects it (a container's first process
--- may not) what ended stays as a zombie.
---@param pid integer|string
---@return boolean
function M.process_gone(pid)
    local stat = mr.read_file(("/proc/%s/stat"):format(pid), 4096)
    if stat then
        return stat:match("%) [ZX] ") ~= nil
    end
    -- Where /proc hides what is another user's (hidepid) a signal finds it.
    local id = tonumber(pid)
    if id < 1 or id > PID_MAX then
        return true
    end
    local there, err = mr.kill(id, "0")
    return not there and err.code == "notfound"
end

--- Whether a holder's text names a process of this host that is gone.
---@param holder string
---@return boolean
function M.is_gone(holder)
    local host, pid, of = holder:match("@(%S+) pid (%d+) boot (%w*)$")
    return host == mr.whoami().hostname and of == boot() and M.process_gone(pid)
end

--- Whether a lease holds nobody off any more: it has expired, or its holder is gone.
---@param lease {expired: boolean, holder: string} lib/catalog.lua's
---@return boolean
function M.is_over(lease)
    return lease.expired or M.is_gone(lease.holder)
end

-- Whether somebody holds a content. The lease of a recovery, a start, a stop, a person's promotion
-- or of work on mirrors is nobody's when its command was killed: its agent went with it, and the
-- next one goes on where it was. What a handover left is finished or undone. Others may end a lease
-- meanwhile.
local function is_held(cat, content)
    local leases, err = cat:leases()
    for _, lease in ipairs(leases or {}) do
        if lease.content == content then
            local left = ENDS_WITH_ITS_COMMAND[lease.intent] and M.is_gone(lease.holder)
            if left then
                cat:end_lease(lease.token, M.holder(), M.TTL, true)
            end
            return not left
        end
    end
    return err ~= nil
end

--- Takes the lease of a content; one that ends with its command is taken over when that is gone.
---@param cat table
---@param content integer
---@param intent string
---@param step string
---@return integer? token
---@return Error? err code "busy" when somebody else holds it
function M.take(cat, content, intent, step)
    local token, err
    for i = 1, TRIES do
        token, err = cat:call("lease_take", content, M.holder(), intent, step, M.TTL)
        if token or err.code ~= "busy" or i == TRIES or is_held(cat, content) then
            break
        end
    end
    return token, err
end

--- Drops a content's lease if it is this process's: work that was cancelled may have lost the
--- answer to what it asked, and nobody here works on the content any more.
---@param cat table
---@param content integer
function M.drop_own(cat, content)
    for _, lease in ipairs(cat:leases() or {}) do
        if lease.content == content and lease.holder == M.holder() then
            cat:call("lease_drop", lease.token)
        end
    end
end

--- Runs fn(lease) while a lease that was taken is renewed; lease.token is for the catalog's
--- transitions and lease:set(step) records how far the work is. The lease is dropped whatever fn
--- returns or raises, unless it has set lease.keep.
---@param cat table
---@param token integer
---@param step string
---@param fn function
---@return any ... what fn returned
function M.keeping(cat, token, step, fn)
    local lease = { token = token, tokens = { token }, step = step }
    function lease.set(self, name)
        self.step = name
        return cat:call("lease_step", token, name, M.TTL)
    end
    return M.renewing(cat, lease, function()
        if not lease.keep then
            cat:call("lease_drop", token)
        end
    end, fn)
end

--- Takes the content's lease and runs fn(lease) as `keeping` does.
---@param ctx table
---@param content integer
---@param intent string
---@param step string
---@param fn function
---@return any ... what fn returned; nil, err (code "busy") when somebody else holds it
function M.content(ctx, content, intent, step, fn)
    local token, err = M.take(ctx.cat, content, intent, step)
    if not token then
        return nil, err
    end
    return M.keeping(ctx.cat, token, step, fn)
end

return M
