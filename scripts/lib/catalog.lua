--- The catalog: what the coordinator's database `moonrise` knows, and its transitions.
---
--- The SQL in lib/catalog/ refuses what SAFETY.md forbids; here its answers become values and
--- errors.
local cluster = require("lib.cluster")
local config = require("lib.config")
local files = require("lib.catalog.files")
local mr = require("moonrise")

local M = {}

local Catalog = {}
Catalog.__index = Catalog

local DEFAULT_TIMEOUT_MS = 10000
local REOPEN_MS, REOPEN_PAUSE_MS = 20000, 100
-- A session that was used just now is taken to be there.
local FRESH_MS = 200
-- A statement that waits for a lock ends before the session is taken for dead.
local LOCK_SHARE, LOCK_TIMEOUT = 0.8, "55P03"

-- What the catalog's own SQLSTATEs mean to callers.
local CODES = { MR001 = "refused", MR002 = "busy", MR003 = "busy", MR004 = "argument" }

--- The SQL that makes the catalog in an empty database, as one script.
---@return string? sql
---@return Error? err
function M.script()
    local texts = { "begin; set local search_path = pg_catalog, moonrise, pg_temp;" }
    for _, name in ipairs(files) do
        local text, err = mr.read_file(("%s/lib/catalog/%s.sql"):format(mr.scripts_dir, name))
        if not text then
            return nil, err
        end
        table.insert(texts, text)
    end
    table.insert(texts, "commit;")
    return table.concat(texts, "\n")
end

-- A connection string does not say where PostgreSQL's programs are; the catalog's own text does.
local function complete(cat)
    local state, err = cat:state()
    if not state then
        return nil, err
    end
    local env = cat.env
    env.name, env.asks_catalog = state.name, nil
    local described = config.parse(state.config, "the catalog's cluster.lua")
    env.bin = described and described.pg.bin
    for key, value in pairs(described and config.tls(described) or {}) do
        env[key] = env[key] or value
    end
    return true
end

local function place_of(env, timeout_ms, reopens)
    local lock_ms = math.floor(LOCK_SHARE * timeout_ms)
    local on_socket = type(env.host) == "string" and env.host:sub(1, 1) == "/"
    return {
        host = env.host, port = env.port, dbname = env.dbname, user = env.user,
        passfile = env.passfile, sslmode = env.sslmode, sslrootcert = env.sslrootcert,
        -- There is no TLS on a socket to bind to, and who answers there is known to the system.
        channel_binding = not on_socket and env.channel_binding or nil,
        requirepeer = on_socket and mr.whoami().user or nil,
        application_name = "moonrise catalog", connect_timeout_ms = timeout_ms,
        target_session_attrs = env.asks_catalog and "read-write" or nil,
        options = reopens and ("-c lock_timeout=%d"):format(lock_ms) or nil,
    }
end

local function connect(place)
    local conn, err = mr.connect(place)
    if not conn then
        return nil, mr.error(err.code, "the coordinator's catalog: " .. err.message,
            { cause = err, hint = err.hint, sqlstate = err.sqlstate })
    end
    return conn
end

--- Connects to the catalog; waits. With `reopens` a session that was lost is opened again by the
--- next statement: leases of contents are bound to their token. The watcher's is its session.
---@param env Env
---@param options? {timeout_ms: number?, reopens: boolean?}
---@return table? cat
---@return Error? err
function M.open(env, options)
    local timeout_ms = options and options.timeout_ms or DEFAULT_TIMEOUT_MS
    local place = place_of(env, timeout_ms, options and options.reopens)
    local conn, err = connect(place)
    if not conn then
        return nil, err
    end
    local cat = M.wrap(conn, env, timeout_ms)
    cat.place = options and options.reopens and place or nil
    if env.asks_catalog then
        local ok
        ok, err = complete(cat)
        if not ok then
            cat:close()
            return nil, err
        end
    end
    return cat
end

--- The catalog over a connection that is there already.
---@param conn Conn
---@param env? table
---@param timeout_ms? number
---@return table cat
function M.wrap(conn, env, timeout_ms)
    local turn = mr.queue()
    turn:push(true)
    return setmetatable({ conn = conn, env = env, turn = turn, used = mr.clock(),
                          timeout_ms = timeout_ms or DEFAULT_TIMEOUT_MS }, Catalog)
end

-- Until the deadline; what was in vain once is tried just once more by each later statement.
local function reopen(cat)
    local deadline = mr.clock() + (cat.gone and 0 or REOPEN_MS)
    cat.conn:close()
    while not cat.closed do
        local conn, err = connect(cat.place)
        if conn then
            cat.conn, cat.gone = conn, false
            return conn
        elseif err.code == "cancelled" then
            return nil, err
        elseif mr.clock() > deadline then
            cat.gone = true
            return nil, err
        end
        local _, cancelled = mr.sleep(REOPEN_PAUSE_MS)
        if cancelled then
            return nil, cancelled
        end
    end
    return nil, mr.error("connect", "the catalog's session is closed")
end

-- The session, after a look whether it still is one: a statement that was lost on the way may have
-- been carried out or not, so none is sent on a session that may be gone.
local function session(cat)
    if not cat.place or cat.closed then
        return cat.conn
    elseif cat.conn:is_open() then
        local rows, err = true, nil
        if mr.clock() - cat.used > FRESH_MS then
            rows, err = cat.conn:query("select 1", nil, { timeout_ms = cat.timeout_ms })
        end
        if rows then
            return cat.conn
        elseif err.code == "cancelled" then
            return nil, err
        end
    end
    return reopen(cat)
end

-- A statement that got no lock did nothing, so it can be tried again.
local function ask(cat, sql, params)
    local deadline = mr.clock() + REOPEN_MS
    while true do
        local conn, rows, err
        conn, err = session(cat)
        if conn then
            rows, err = conn:query(sql, params, { timeout_ms = cat.timeout_ms })
            cat.used = mr.clock()
        end
        if rows or not cat.place or err.sqlstate ~= LOCK_TIMEOUT or mr.clock() > deadline then
            return rows, err
        end
    end
end

--- Runs SQL; several tasks may ask at a time, each gets its turn.
---@param sql string
---@param params? any[]
---@return table[]? rows
---@return Error? err
function Catalog:query(sql, params)
    local mine, err = self.turn:pop()
    if not mine then
        return nil, err
    end
    local rows
    rows, err = ask(self, sql, params)
    self.turn:push(true)
    if not rows and err.sqlstate and CODES[err.sqlstate] then
        err = mr.error(CODES[err.sqlstate], (err.message:gsub("^ERROR:%s*", "")),
            { hint = err.hint, sqlstate = err.sqlstate })
    end
    return rows, err
end

local function parameter(value)
    if value == nil then
        return mr.null
    elseif type(value) == "table" then
        return mr.json_encode(value)
    end
    return value
end

--- Calls a function of the catalog. Tables are given as JSON, nil as NULL.
---@param fn string
---@param ... any
---@return any value what it returned; nil without an error when that was NULL
---@return Error? err code "refused" (a safety rule), "busy" (no lease, or somebody was first) or
--- "argument"
function Catalog:call(fn, ...)
    local params, marks = {}, {}
    for i = 1, select("#", ...) do
        params[i] = parameter((select(i, ...)))
        marks[i] = "$" .. i
    end
    local sql = ("select moonrise.%s(%s) as value"):format(fn, table.concat(marks, ", "))
    local rows, err = self:query(sql, #params > 0 and params or nil)
    if not rows then
        return nil, err
    end
    return rows[1] and rows[1].value
end

-- Rows as a plain list, without the command tag beside them.
local function plain(rows, err)
    if rows then
        rows.command = nil
    end
    return rows, err
end

--- All instances, ordered by content, the preferred primaries first.
---@return table[]? instances
---@return Error? err
function Catalog:instances()
    return plain(self:query([[select dbid, content, role, preferred_role, mode, status, port,
        hostname, address, datadir
        from moonrise.gp_segment_configuration order by content, preferred_role desc]]))
end

--- The pair of a content as it is now.
---@param content integer
---@return {content: integer, primary: table, mirror: table?}? pair
---@return Error? err
function Catalog:pair(content)
    local instances, err = self:instances()
    local pair = instances and cluster.pair(instances, content)
    if instances and not pair then
        err = mr.error("notfound", ("the catalog knows no content %d"):format(content))
    end
    return pair, err
end

--- The pairs for which fits(pair) is true, ordered by content.
---@param fits fun(pair: table): boolean
---@return {content: integer, primary: table, mirror: table?}[]? list
---@return Error? err
function Catalog:pairs(fits)
    local instances, err = self:instances()
    local list = instances and {}
    for _, pair in ipairs(instances and cluster.pairs(instances) or {}) do
        if fits(pair) then
            table.insert(list, pair)
        end
    end
    return list, err
end

--- The cluster's own row: name, epoch, state ("running" or "stopped"), config, watcher; and sysid,
--- the coordinator's system identifier.
---@return table? state
---@return Error? err
function Catalog:state()
    local rows, err = self:query([[select name, epoch, state, config, watcher,
        watcher_since::text, created::text,
        (select system_identifier::text from pg_control_system()) as sysid
        from moonrise.cluster_state]])
    if rows and not rows[1] then
        return nil, mr.error("notfound", "the catalog holds no cluster")
    end
    return rows and rows[1], err
end

--- What is known of a content's pair: epoch, reserved, role_epoch, armed_name, ...
---@param content integer
---@return table? state
---@return Error? err
function Catalog:pair_state(content)
    local rows, err = self:query([[select content, epoch, reserved, role_epoch, armed_name,
        timeline, unconfirmed, since::text
        from moonrise.pair_state where content = $1]], { content })
    if rows and not rows[1] then
        return nil, mr.error("notfound", ("the catalog knows no content %d"):format(content))
    end
    return rows and rows[1], err
end

--- Contents whose pairs have not confirmed their epochs since the standby was activated.
---@return integer[]? contents
---@return Error? err
function Catalog:unconfirmed()
    local rows, err = self:query([[select content from moonrise.pair_state
        where unconfirmed is not null order by content]])
    local contents = rows and {}
    for i, row in ipairs(rows or {}) do
        contents[i] = row.content
    end
    return contents, err
end

--- Leases of contents: content, token, holder, intent, step, expired, left_ms.
---@return table[]? leases
---@return Error? err
function Catalog:leases()
    return plain(self:query([[select content, token, holder, intent, step,
        expires <= clock_timestamp() as expired,
        extract(epoch from expires - clock_timestamp())::float8 * 1000 as left_ms
        from moonrise.content_lease order by content]]))
end

--- Takes over a lease that was left and gives it back, in one statement: nobody finds it in other
--- hands, where there is nothing to finish.
---@param token integer
---@param heir string
---@param ttl string
---@param gone boolean the holder's process has ended; otherwise the lease must have expired
---@return boolean? ended
---@return Error? err code "busy" when somebody else was first, or the lease has been renewed
function Catalog:end_lease(token, heir, ttl, gone)
    local rows, err = self:query([[
        select moonrise.lease_drop(moonrise.lease_inherit($1, $2, $3, $4)) as ended]],
        { token, heir, ttl, gone })
    return rows and rows[1].ended, err
end

--- Pauses that have not ended: content or hostname (neither: the whole cluster), holder, reason,
--- until_text, left_ms.
---@return table[]? pauses
---@return Error? err
function Catalog:pauses()
    return plain(self:query([[select content, hostname, holder, reason,
        to_char(until, 'YYYY-MM-DD HH24:MI:SS') as until_text,
        extract(epoch from until - clock_timestamp())::float8 * 1000 as left_ms
        from moonrise.pause where until > clock_timestamp()
        order by content nulls last, hostname]]))
end

--- Places outside of the catalog's that hold, or may hold, something of an instance, and that
--- nobody is copying to: dbid, content, hostname, address, port, datadir, since.
---@return table[]? places
---@return Error? err
function Catalog:left_places()
    return plain(self:query([[select dbid, content, hostname, address, port, datadir,
        to_char(since, 'YYYY-MM-DD HH24:MI:SS') as since
        from moonrise.left_place
        where busy_until is null or busy_until <= clock_timestamp() order by content, since]]))
end

--- The places to which a content's mirror, which is up, is being copied: as above, and busy_by, who
--- copies.
---@param content integer
---@return table[]? places
---@return Error? err
function Catalog:busy_places(content)
    return plain(self:query([[select dbid, content, hostname, address, port, datadir, busy_by
        from moonrise.left_place where content = $1 and busy_until > clock_timestamp()
        order by since]], { content }))
end

--- Where instances were before they were brought to other places, or had other ports or addresses:
--- dbid, hostname, address, port. A dbid that was given anew does not have its predecessor's.
---@return table[]? places
---@return Error? err
function Catalog:former_places()
    return plain(self:query([[
        select distinct j.dbid, j.data->'from'->>'hostname' as hostname,
            j.data->'from'->>'address' as address, (j.data->'from'->>'port')::integer as port
        from moonrise.journal j join moonrise.gp_segment_configuration c using (dbid, content)
        where j.kind = 'move' and not exists (
            select from moonrise.journal later where later.content = j.content
                and later.dbid = j.dbid and later.kind = 'instance' and later.id > j.id)]]))
end

--- Which instances were brought to other places, or are being brought there: dbid, from_host,
--- to_host, and of what is not done yet port and datadir.
---@return table[]? moves
---@return Error? err
function Catalog:moves()
    return plain(self:query([[
        select dbid, c.hostname as from_host, l.hostname as to_host, l.port, l.datadir
        from moonrise.left_place l join moonrise.gp_segment_configuration c using (dbid)
        union all
        (select distinct on (dbid) dbid, data->'from'->>'hostname', data->'to'->>'hostname', null,
            null from moonrise.journal where kind = 'move' order by dbid, id desc)]]))
end

--- Adds a row to the journal.
---@param kind string
---@param entry {content: integer?, dbid: integer?, text: string, data: table?}
---@return integer? id
---@return Error? err
function Catalog:journal(kind, entry)
    return self:call("journal_add", kind, entry.content, entry.dbid, entry.text, entry.data or "{}")
end

---@return boolean
function Catalog:is_open()
    return self.conn:is_open()
end

function Catalog:close()
    self.closed = true
    self.conn:close()
end

return M
