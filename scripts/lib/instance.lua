--- One instance: its names, its places, how it is reached and what makes it a mirror.
local agents = require("lib.agents")
local merged = require("lib.merged")
local mr = require("moonrise")

local M = {}

-- sockaddr_un holds 107 bytes; the file in the directory is called .s.PGSQL.PORT.lock.
local SOCKET_DIR_BYTES = 90

--- Where an instance's Unix socket is: its own data directory, which nobody else can enter, unless
--- that path is too long for a socket.
---@param inst {datadir: string}
---@return string
function M.socket_dir(inst)
    if #inst.datadir + #"/.s.PGSQL.65535" <= SOCKET_DIR_BYTES then
        return inst.datadir
    end
    return ("/tmp/moonrise-%d/%s"):format(mr.whoami().uid, mr.hash(inst.datadir):sub(1, 12))
end

--- The listen_addresses an instance is started with.
---@param inst table
---@return string
function M.listen(inst)
    return inst.address
end

--- The slot on the primary that holds WAL for this mirror.
---@param mirror {dbid: integer}
---@return string
function M.slot_name(mirror)
    return ("mr_slot_%d"):format(mirror.dbid)
end

--- The slot of the copy that is to become this mirror, while the mirror has its own.
---@param mirror {dbid: integer}
---@return string
function M.next_slot_name(mirror)
    return M.slot_name(mirror) .. "_next"
end

--- The application_name of a mirror's receiver: bare while nothing waits for it, with the epoch it
--- was armed with afterwards. The coordinator's content is written c: synchronous_standby_names
--- takes plain identifiers without quotes.
---@param mirror {dbid: integer, content: integer}
---@param epoch? integer
---@return string
function M.stream_name(mirror, epoch)
    local content = mirror.content == -1 and "c" or ("%d"):format(mirror.content)
    local name = ("mr_%s_%d"):format(content, mirror.dbid)
    return epoch and ("%s_%d"):format(name, epoch) or name
end

-- The owner of a database may give it a search_path with functions and operators of his own, which
-- our statements there would then call with our rights. What the client asks for comes before that.
local TRUSTED_PATH = "-c search_path=pg_catalog"

--- How role moonrise connects to an instance over the network. Names without a schema mean
--- pg_catalog's, whatever the database says.
---@param env table lib/home.lua's answer
---@param inst table
---@param more? table options that are replaced; `options` is added
---@return ConnOptions
function M.conninfo(env, inst, more)
    local options = merged({
        host = inst.address,
        port = inst.port,
        user = env.user,
        passfile = env.passfile,
        dbname = "postgres",
        sslmode = env.sslmode,
        sslrootcert = env.sslrootcert,
        channel_binding = env.channel_binding,
        application_name = "moonrise",
    }, more)
    options.options = TRUSTED_PATH .. (more and more.options and " " .. more.options or "")
    return options
end

--- How many sessions clients have on a server; ours are of role moonrise.
M.CLIENTS_SQL = [[
select count(*) as n from pg_stat_activity
where backend_type = 'client backend' and usename is distinct from 'moonrise']]

local ASK_MS = 3000

--- The first row that a query gives on a session, nil when there is none.
---@param conn Conn
---@param sql string
---@param params? any[]
---@param timeout_ms? number default 3000
---@return table? row
---@return Error? err
function M.first_row(conn, sql, params, timeout_ms)
    local rows, err = conn:query(sql, params, { timeout_ms = timeout_ms or ASK_MS })
    return rows and rows[1], err
end

--- Asks an instance one thing, on a session of its own.
---@param env table
---@param inst table
---@param sql string
---@param params? any[]
---@param timeout_ms? number of the connecting and of the query; default 3000
---@return table? row the first one
---@return Error? err
function M.ask(env, inst, sql, params, timeout_ms)
    local conn, err = mr.connect(M.conninfo(env, inst,
        { connect_timeout_ms = timeout_ms or ASK_MS }))
    if not conn then
        return nil, err
    end
    local row
    row, err = M.first_row(conn, sql, params, timeout_ms)
    conn:close()
    return row, err
end

local function quoted(value)
    return "'" .. tostring(value):gsub("[\\']", "\\%0") .. "'"
end

-- A dead link is noticed by the receiver itself, so that it comes back by itself.
local RECEIVER = { "connect_timeout=5", "keepalives_idle=10", "keepalives_interval=5",
    "keepalives_count=3" }

--- The primary_conninfo of a mirror, under its bare name.
---@param env table
---@param mirror table
---@param primary table
---@return string
function M.primary_conninfo(env, mirror, primary)
    local words = {
        "host=" .. quoted(primary.address), "port=" .. primary.port, "user=" .. quoted(env.user),
        "passfile=" .. quoted(env.passfile),
        "application_name=" .. quoted(M.stream_name(mirror)),
        "sslmode=" .. (env.sslmode or "prefer"),
    }
    if env.sslrootcert then
        table.insert(words, "sslrootcert=" .. quoted(env.sslrootcert))
    end
    if env.channel_binding then
        table.insert(words, "channel_binding=" .. env.channel_binding)
    end
    for _, word in ipairs(RECEIVER) do
        table.insert(words, word)
    end
    return table.concat(words, " ")
end

--- How the agent of a recovery's target reaches its source: on this host by its directory, else by
--- its host's name.
---@param env table
---@param target table
---@param source table
---@return {datadir: string, port: integer, user: string, passfile: string, bin: string,
--- dbid: integer, host: string?}
function M.recovery_source(env, target, source)
    local far = not agents.same_host(target.hostname, source.hostname)
    return { datadir = source.datadir, port = source.port, user = env.user, bin = env.bin,
             passfile = env.passfile, dbid = source.dbid, host = far and source.hostname or nil }
end

--- What makes `target` a mirror of `source`: the agent's recover, configure and promote take it.
--- A setting that is false is taken out; pg_hba.conf is copied as it is.
---@param env table
---@param target table
---@param source table
---@return {slot: string, settings: table<string, any>, hba: string[]?, listen: string}
function M.standby_spec(env, target, source)
    local slot = M.slot_name(target)
    return {
        slot = slot,
        settings = {
            port = target.port,
            unix_socket_directories = M.socket_dir(target),
            primary_conninfo = M.primary_conninfo(env, target, source),
            primary_slot_name = slot,
            synchronous_standby_names = false,
        },
        hba = nil,
        listen = M.listen(target),
    }
end

--- The highest epoch that an instance is bound by, 0 when by none: what is ordered of it next needs
--- a higher one.
---@param word table the host's word about it
---@return integer
function M.seen_epoch(word)
    local epoch = word.epoch
    return epoch and epoch.valid and math.max(epoch.epoch, epoch.barred) or 0
end

-- States of pg_control in which a standby is left.
local STANDBY_STATES = { ["shut down in recovery"] = true, ["in archive recovery"] = true }

--- Whether an epoch is older than the one by which a pair was armed: the primary that has seen no
--- newer one is not the one that waits for its mirror.
---@param epoch? {valid: boolean, epoch: integer} of the primary
---@param pair {armed_name: string?}
---@return integer? armed the epoch by which it was, when it is older than that
function M.before_arming(epoch, pair)
    local armed = tonumber((pair.armed_name or ""):match("_(%d+)$"))
    return armed and epoch and epoch.valid and epoch.epoch < armed and armed or nil
end

--- Why the primary of a pair in sync is an older copy of itself (a directory that was put back, a
--- snapshot, a restored backup), or nil when nothing says so: then its mirror, on the pair's own
--- timeline, has acknowledged commits that it lacks. A primary that crashed has all the WAL that it
--- ever sent. A mirror that was run as a primary may be ahead, too; one that has seen an order that
--- its primary has not is none of these.
---@param word table the host's word about the mirror, with lib/history.lua's `primary`
---@param pair {armed_name: string?, timeline: integer} the catalog's
---@return string? reason
function M.older_copy(word, pair)
    local told, control, epoch = word.primary, word.control or {}, word.epoch or {}
    if not told or told.mode ~= "s" or not told.epoch or not epoch.valid or epoch.marked
        or (control.newest_timeline or math.huge) > pair.timeline
        or not STANDBY_STATES[control.state] then
        return nil
    end
    local armed = M.before_arming({ valid = true, epoch = told.epoch }, pair)
    if armed then
        return ("its epoch is %d, and it has waited for its mirror since epoch %d"):format(
            told.epoch, armed)
    elseif told.epoch >= epoch.epoch then
        return nil
    elseif told.ends_before then
        return "its WAL ends before what its mirror has"
    end
    -- It was started since, and has written something else there.
    return word.same_history == false and "its WAL is not what its mirror has" or nil
end

--- Why a mirror's history is not its primary's, or nil when nothing says so (SAFETY.md, rule 9).
--- Two servers that were promoted apart can bear the same timeline and identical history files, so
--- a promotion that moonrise did not make is looked for in the mirror's own history files, not in
--- what it has in common with its primary.
---@param word table the host's word about the mirror, with lib/history.lua's same_history
---@param pair {timeline: integer, armed_name: string?} the catalog's: the timeline of the pair's
--- last promotion
---@return string? reason
function M.other_history(word, pair)
    local control = word.control or {}
    if (control.newest_timeline or math.huge) > pair.timeline then
        return "it, or its primary, was promoted by somebody else"
    elseif word.same_history == false and not M.older_copy(word, pair) then
        return "its last checkpoint is none of its primary's: it has run as a primary"
    end
    return nil
end

-- What was shut down as a primary is a mirror by its files when a handover has made it one: then
-- its successor has that very checkpoint. No start as a primary leaves another state.
local function left_as_standby(word)
    local state = word.control.state
    return STANDBY_STATES[state] or state == "shut down" and word.same_history == true
end

--- Why an instance is not simply started as a mirror, or nil when it may be: only what was never
--- promoted and never run as a primary, whose pair had no change of roles since it was last given
--- an order, and which is whole.
---@param word table the host's word about it, with lib/history.lua's same_history
---@param pair {role_epoch: integer, timeline: integer} the catalog's: the epoch of the pair's last
--- change of roles, and the timeline of its last promotion
---@return string? reason
function M.start_refusal(word, pair)
    local control = word.control
    if word.kind ~= "datadir" or not control or control.aside then
        return "its data directory is not whole"
    elseif not word.epoch or not word.epoch.valid then
        return "it has no epoch file of its own"
    elseif word.epoch.marked then
        return "it is marked: it was replaced while it was away"
    elseif not word.standby_signal then
        return "it is not a mirror by its files"
    elseif word.patch then
        return "an unfinished recovery lies in its directory"
    elseif word.epoch.epoch <= pair.role_epoch then
        return "the roles of its pair were changed since it last streamed"
    end
    local parted = M.other_history(word, pair)
    if not parted and not left_as_standby(word) then
        return ("it has run as a primary (%s)"):format(control.state or "its state is not known")
    end
    return parted
end

return M
