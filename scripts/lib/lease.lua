--- The watcher's lease: a session advisory lock in the catalog, with all that is read through its
--- session.
---
--- The session has an idle_session_timeout of five seconds and reads the catalog every second, so
--- that the server itself drops a holder that was stopped. What holds the lease is the session:
--- each transition goes through it, and when it breaks the lease is gone with it.
local catalog = require("lib.catalog")
local mr = require("moonrise")
local without_null = require("lib.without_null")

local M = {}

local CONNECT_MS = 3000
local STATEMENT_MS = 4000

local SNAPSHOT_SQL = [[
select json_build_object(
    'instances', (select json_agg(c order by c.content, c.dbid)
        from moonrise.gp_segment_configuration c),
    'pairs', (select json_agg(json_build_object('content', p.content, 'epoch', p.epoch,
        'role_epoch', p.role_epoch, 'timeline', p.timeline, 'armed_name', p.armed_name,
        'armed_timeline', p.armed_timeline, 'unconfirmed', p.unconfirmed, 'promoted_epoch',
        (select max(m.epoch) from moonrise.promotion m where m.content = p.content)))
        from moonrise.pair_state p),
    'leases', (select json_agg(json_build_object('content', l.content, 'token', l.token,
        'holder', l.holder, 'intent', l.intent, 'step', l.step,
        'left_ms', extract(epoch from l.expires - clock_timestamp()) * 1000))
        from moonrise.content_lease l),
    'pauses', (select json_agg(json_build_object('content', p.content,
        'text', format('until %s by %s: %s', to_char(p.until, 'YYYY-MM-DD HH24:MI:SS'), p.holder,
            p.reason),
        'left_ms', extract(epoch from p.until - clock_timestamp()) * 1000))
        from moonrise.paused_content p),
    'left', (select json_agg(l) from moonrise.left_place l
        where l.busy_until is null or l.busy_until <= clock_timestamp()),
    'state', (select json_build_object('name', s.name, 'epoch', s.epoch, 'state', s.state,
        'watcher', s.watcher, 'config', md5(s.config)) from moonrise.cluster_state s),
    'sysid', (select system_identifier::text from pg_control_system()),
    'cycle', (select w.asked from moonrise.watch_cycle w where w.asked > w.done),
    'held', moonrise.holds_watcher_lease(),
    'version', current_setting('server_version_num')::integer)::text as snapshot]]

---@class Lease
---@field cat? table the catalog, over the session that holds the lease; nil while there is none
---@field held boolean
---@field times? integer how often it was taken: each time is a new session
local Lease = {}
Lease.__index = Lease

--- A lease that is not held yet.
---@param env table lib/home.lua's
---@param holder string who we are
---@return Lease
function M.new(env, holder)
    return setmetatable({ env = env, holder = holder, held = false }, Lease)
end

local function by_content(list)
    local map = {}
    for _, item in ipairs(list or {}) do
        map[item.content] = item
    end
    return map
end

local function parse(text, begun)
    local raw, err = mr.json_decode(text)
    if not raw then
        return nil, err
    end
    raw = without_null(raw)
    local now = mr.clock()
    for _, lease in ipairs(raw.leases or {}) do
        lease.expires = now + lease.left_ms
    end
    for _, pause in ipairs(raw.pauses or {}) do
        pause.expires = now + pause.left_ms
    end
    return { instances = raw.instances or {}, pairs = by_content(raw.pairs),
             state = raw.state or {}, leases = by_content(raw.leases),
             left = raw.left or {}, pauses = by_content(raw.pauses), sysid = raw.sysid,
             cycle = raw.cycle, version = raw.version, held = raw.held, at = now, begun = begun }
end

local function drop(self)
    if self.cat then
        self.cat:close()
    end
    self.cat, self.held = nil, false
end

--- Connects unless connected, and takes the lease unless it is held.
---@return boolean? held false when somebody else holds it
---@return Error? err
function Lease:take()
    if self.cat and not self.cat:is_open() then
        drop(self)
    end
    if not self.cat then
        local cat, err = catalog.open(self.env, { timeout_ms = CONNECT_MS })
        if not cat then
            return nil, err
        end
        cat.timeout_ms = STATEMENT_MS
        self.cat = cat
    end
    if not self.held then
        local epoch, err = self.cat:call("watcher_lease_take", self.holder)
        if err then
            drop(self)
            return nil, err
        end
        self.held = epoch ~= nil
        self.times = (self.times or 0) + (epoch and 1 or 0)
    end
    return self.held
end

--- Reads all that the watcher decides by, in one statement; that is also the sign of life.
---@return table? snapshot {instances, pairs, leases, left, pauses, state, sysid, cycle, version, held,
--- begun, at}
---@return Error? err the session is gone, and the lease with it
function Lease:read()
    if not self.cat then
        return nil, mr.error("connect", "there is no session with the catalog")
    end
    local begun = mr.clock()
    local rows, err = self.cat:query(SNAPSHOT_SQL)
    if not rows then
        drop(self)
        return nil, err
    end
    local snapshot
    snapshot, err = parse(rows[1].snapshot, begun)
    self.held = snapshot ~= nil and snapshot.held
    return snapshot, err
end

--- Gives the lease back by ending its session.
function Lease:close()
    drop(self)
end

return M
