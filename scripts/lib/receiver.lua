--- What `moonrise receivewal` does around the engine's receiver: where the server is, replication
--- slots, and going on when a link is lost.
local mr = require("moonrise")
local cluster = require("lib.cluster")
local instance = require("lib.instance")
local merged = require("lib.merged")
local term = require("lib.term")

local M = {}

local NAME = "moonrise receivewal"
local CONNECT_MS = 10000
local FIRST_PAUSE_MS, LONGEST_PAUSE_MS = 100, 5000
-- A stream that lasted for so long was a good one.
local GOOD_MS = 10000
-- How often the catalog is asked whether the primary is still the same.
local LOOK_MS = 5000

--- Reads -d: a connection string, or a database's name, which means nothing to a WAL stream.
---@param text string
---@return ConnOptions? options
---@return Error? err
function M.conninfo(text)
    if not text:find("=", 1, true) and not text:find("://", 1, true) then
        return {}
    end
    local conn, err = mr.conninfo(text)
    if conn then
        conn.dbname = nil
    end
    return conn, err
end

---@class WalSource
---@field find fun(): ConnOptions?, any what is connected to, and which server that is
---@field moved fun(which: any): boolean whether it is another server by now
---@field left? fun(which: any): ConnOptions?, boolean? a server that it was: how it is reached as a
--- mirror that is up, or that there is nothing to be done there
---@field of_cluster boolean

--- A server that somebody names.
---@param conn ConnOptions
---@return WalSource
function M.of_server(conn)
    conn.application_name = conn.application_name or NAME
    conn.connect_timeout_ms = CONNECT_MS
    return {
        of_cluster = false,
        find = function()
            return conn, ""
        end,
        moved = function()
            return false
        end,
    }
end

local function row_of(ctx, given)
    local instances, err = ctx.cat:instances()
    if not instances then
        return nil, err
    end
    local row, name
    if given.dbid then
        row, name = cluster.find(instances, given.dbid), "dbid " .. given.dbid
    else
        local pair = cluster.pair(instances, given.content)
        row, name = pair and pair.primary, "content " .. given.content
    end
    if not row then
        return nil, mr.error("usage", "the cluster has no " .. name,
            { hint = "moonrise state -c lists them" })
    end
    return row
end

local function conninfo(ctx, row)
    return instance.conninfo(ctx.env, row, { application_name = NAME,
        connect_timeout_ms = CONNECT_MS })
end

--- An instance of a cluster by its dbid, or the primary of a content, as the catalog has it then.
---@param ctx Session
---@param given {dbid: integer?, content: integer?}
---@return WalSource
function M.of_cluster(ctx, given)
    return {
        of_cluster = true,
        find = function()
            local row, err = row_of(ctx, given)
            if not row then
                return nil, err
            end
            return conninfo(ctx, row), row.dbid
        end,
        moved = function(dbid)
            local row = row_of(ctx, given)
            return row ~= nil and row.dbid ~= dbid
        end,
        left = function(dbid)
            local row = row_of(ctx, { dbid = dbid })
            if row and row.role == "m" and row.status == "u" then
                return conninfo(ctx, row)
            end
            return nil, row ~= nil and row.role == "p"
        end,
    }
end

-- One command of a walsender.
local function command(conn, text)
    local session, err = mr.connect(merged({ replication = "true" }, conn))
    if not session then
        return nil, err
    end
    local rows
    rows, err = session:query(text)
    session:close()
    return rows, err
end

local EXISTS, MISSING = "42710", "42704"

local function make_slot(conn, slot, more, exists_ok)
    local made, err = command(conn, ('CREATE_REPLICATION_SLOT "%s" PHYSICAL%s'):format(slot, more))
    if not made and exists_ok and err.sqlstate == EXISTS then
        return true
    end
    return made and true, err
end

--- Makes a physical slot. It holds nothing back before somebody streams from it.
---@param source WalSource
---@param slot string
---@param exists_ok boolean?
---@return integer? code
---@return Error? err
function M.create_slot(source, slot, exists_ok)
    local conn, err = source.find()
    if not conn then
        return nil, err
    end
    local ok
    ok, err = make_slot(conn, slot, "", exists_ok)
    return ok and 0 or nil, err
end

local function drop_slot(conn, slot)
    return command(conn, ('DROP_REPLICATION_SLOT "%s"'):format(slot))
end

---@param source WalSource
---@param slot string
---@return integer? code
---@return Error? err
function M.drop_slot(source, slot)
    local conn, err = source.find()
    if not conn then
        return nil, err
    end
    local rows
    rows, err = drop_slot(conn, slot)
    return rows and 0 or nil, err
end

-- What trying again would not change. An SQLSTATE's class: who may do what, what there is.
local HOPELESS = { notfound = true, refused = true, version = true, format = true,
    permission = true, argument = true, busy = true, usage = true }
local HOPELESS_SQL = { ["28"] = true, ["42"] = true, ["0A"] = true }

local function hopeless(err)
    return HOPELESS[err.code] or err.code == "sql" and HOPELESS_SQL[(err.sqlstate or ""):sub(1, 2)]
end

local function teller(state, story)
    return function(word)
        local at = word.lsn and mr.lsn_text(word.lsn)
        if word.event == "begins" then
            state.begun = true
            story("starting log streaming at %s (timeline %d)", at, word.timeline)
        elseif word.event == "finished" then
            story("finished segment at %s (timeline %d)", at, word.timeline)
        elseif word.event == "switched" then
            story("switched to timeline %d at %s", word.timeline, at)
        else
            term.warn("segment file \"%s\" is not what its name says, it is passed over",
                word.name)
        end
    end
end

-- A slot on what was the primary would hold back all WAL there, for nobody: a recovery takes it
-- away, a handover does not.
local function drop_left(source, state, slot)
    for which in pairs(state.left) do
        local conn, nothing = source.left(which)
        local dropped, err
        if conn then
            dropped, err = drop_slot(conn, slot)
        end
        if nothing or dropped or err and err.sqlstate == MISSING then
            state.left[which] = nil
        end
    end
end

-- Streams on a task of its own, and looks now and then whether the primary is still the one.
local function stream(source, which, state, options)
    local task = mr.spawn(mr.receive_wal, options)
    while true do
        local result, err = task:wait(LOOK_MS)
        if task:done() then
            return result, err
        elseif err.code == "cancelled" then
            task:cancel()
            task:wait()
            return nil, err
        elseif source.moved(which) then
            task:cancel()
            task:wait()
            return nil, mr.error("connect", "another instance is the primary now")
        end
        drop_left(source, state, options.slot)
    end
end

-- The slot went with the server that it was on.
local function keep_slot(source, conn, which, state, options)
    local moved = state.which ~= nil and state.which ~= which
    local before = state.which
    state.which = which
    if not (source.of_cluster and options.slot and moved) then
        return true
    end
    state.left[before], state.left[which] = true, nil
    return make_slot(conn, options.slot, " RESERVE_WAL", true)
end

local function attempt(source, state, options)
    local conn, which = source.find()
    if not conn then
        return nil, which
    end
    local ok, err = keep_slot(source, conn, which, state, options)
    if not ok then
        return nil, err
    end
    return stream(source, which, state, merged({ conn = conn, directory = options.directory,
        slot = options.slot, never_synchronous = source.of_cluster,
        progress = teller(state, options.story) }, options.stream))
end

---@class ReceiverOptions
---@field directory string
---@field slot? string
---@field no_loop? boolean
---@field story fun(format: string, ...) what is received, for -v
---@field stream table the rest of mr.receive_wal's options

--- Receives until the end position is reached or somebody interrupts it. A link that is lost is
--- made again, sooner or later; what cannot get better by itself ends it, and so does a first
--- connection that cannot be had.
---@param source WalSource
---@param options ReceiverOptions
---@return integer? code
---@return Error? err
function M.run(source, options)
    local state, pause = { left = {} }, FIRST_PAUSE_MS
    while true do
        local began = mr.clock()
        local result, err = attempt(source, state, options)
        if result then
            options.story("stopped log streaming at %s (timeline %d)", mr.lsn_text(result.lsn),
                result.timeline)
            return 0
        elseif err.code == "cancelled" then
            options.story("received interrupt signal, exiting")
            return 0
        elseif not state.begun or options.no_loop or hopeless(err) then
            return nil, err
        end
        pause = mr.clock() - began > GOOD_MS and FIRST_PAUSE_MS or
            math.min(2 * pause, LONGEST_PAUSE_MS)
        if err.message ~= state.told then
            term.warn("%s", err.message)
            state.told = err.message
        end
        options.story("disconnected; waiting %s to try again", term.duration(pause))
        if not mr.sleep(pause) then
            return 0
        end
    end
end

return M
