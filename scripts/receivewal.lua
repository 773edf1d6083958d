--- `moonrise receivewal`: streams a server's WAL into a directory, as pg_receivewal does.
local mr = require("moonrise")
local args = require("lib.args")
local receiver = require("lib.receiver")
local session = require("lib.session")
local term = require("lib.term")

local LEVELS = { gzip = 9, lz4 = 12 }

-- "gzip", "gzip:6", "lz4:level=3", and pg_receivewal's older form, the level alone.
local function compression(text)
    if text:match("^%d+$") then
        text = text == "0" and "none" or "gzip:" .. text
    end
    local method, detail = text:match("^([^:]+):?(.*)$")
    if method == "none" and detail == "" then
        return {}
    elseif method == "none" then
        return nil, "-Z none: no compression has no level"
    elseif not LEVELS[method] then
        return nil, ("-Z %s: the methods are gzip, lz4 and none"):format(text)
    end
    local level = tonumber(detail:match("^level=(%d+)$") or detail:match("^%d+$"))
    if detail ~= "" and not (level and level >= 1 and level <= LEVELS[method]) then
        return nil, ("-Z %s: a level of %s is a number from 1 to %d"):format(text, method,
            LEVELS[method])
    end
    return { method = method, level = level }
end

-- What is wrong with a connection string, or nil.
local function bad_string(text)
    local conn, err = receiver.conninfo(text)
    if not conn then
        return "-d: " .. err.message
    elseif conn.password then
        return "-d: a password among the arguments is there for everybody to read; a passfile " ..
            "(~/.pgpass, or passfile=FILE) keeps it"
    elseif conn.replication then
        return "-d: replication is receivewal's own business"
    end
end

local function bad_source(given)
    local of_cluster = args.exclusive(given, { { "content", "--content" }, { "dbid", "--dbid" } })
    if of_cluster then
        return of_cluster
    elseif not (given.content or given.dbid) then
        return given.conninfo and bad_string(given.conninfo)
    end
    local name = given.content and "--content" or "--dbid"
    for _, option in ipairs({ { "host", "-h" }, { "port", "-p" }, { "user", "-U" },
                              { "conninfo", "-d" } }) do
        local problem = args.exclusive(given, { { given.content and "content" or "dbid", name },
            option })
        if problem then
            return problem .. ": the catalog knows where it is"
        end
    end
    if given.synchronous then
        return name .. " and --synchronous cannot be combined: commits wait for the mirror only"
    end
end

local function bad_slot(given)
    local action = given.create_slot and "--create-slot" or given.drop_slot and "--drop-slot"
    if action and not given.slot then
        return action .. " wants the slot's name (-S)"
    elseif given.if_not_exists and not given.create_slot then
        return "--if-not-exists is for --create-slot"
    elseif given.slot and not given.slot:match("^[a-z0-9_]+$") then
        return ("-S %s: a slot's name has small letters, digits and underscores only"):format(
            given.slot)
    elseif given.slot and given.slot:match("^mr_slot_") then
        return ("-S %s: this is a mirror's slot"):format(given.slot)
    end
end

local function check(given)
    if given.version then
        return nil
    elseif given.dry_run then
        return "--dry-run: a receiver has no plan"
    elseif given.json then
        return "--json: a receiver has no result"
    elseif given.password then
        return "-W: moonrise asks for no password; a passfile (~/.pgpass) keeps it"
    elseif not (given.directory or given.create_slot or given.drop_slot) then
        return "which directory? (-D)"
    elseif given.end_lsn and not mr.lsn(given.end_lsn) then
        return ("-E %s: a position such as 16/B374D848 is wanted"):format(given.end_lsn)
    end
    local _, problem = compression(given.compress)
    return args.exclusive(given, { { "create_slot", "--create-slot" },
                                   { "drop_slot", "--drop-slot" } }) or
        args.exclusive(given, { { "synchronous", "--synchronous" }, { "no_sync", "--no-sync" } }) or
        bad_slot(given) or bad_source(given) or problem
end

local function run(source, given)
    if given.create_slot then
        return receiver.create_slot(source, given.slot, given.if_not_exists)
    elseif given.drop_slot then
        return receiver.drop_slot(source, given.slot)
    end
    local codec = compression(given.compress)
    return receiver.run(source, {
        directory = given.directory, slot = given.slot, no_loop = given.no_loop,
        story = given.verbose and term.info or function() end,
        stream = {
            end_lsn = given.end_lsn and mr.lsn(given.end_lsn), sync = not given.no_sync,
            synchronous = given.synchronous, status_ms = given.status_s * 1000,
            silence_ms = given.silence, compress = codec.method, level = codec.level,
        },
    })
end

local function main(given)
    if given.version then
        mr.out(("moonrise receivewal %s\n"):format(mr.version))
        return 0
    elseif given.content or given.dbid then
        return session.with(given, function(ctx)
            return run(receiver.of_cluster(ctx, given), given)
        end)
    end
    local conn = given.conninfo and mr.check(receiver.conninfo(given.conninfo)) or {}
    conn.host, conn.port = given.host or conn.host, given.port or conn.port
    conn.user = given.user or conn.user
    return run(receiver.of_server(conn), given)
end

return {
    summary = "stream a server's WAL into a directory",
    usage = "-D DIR [--content N | --dbid N | -h HOST -p PORT] [options]",
    description = [[
Streams the WAL of a server as it is written, into segment files that PostgreSQL's
restore_command can give back: pg_receivewal's options, files and exit codes. It begins where the
WAL in the directory ends, else where the slot stands, else where the server is, and follows the
server over its timelines; a link that is lost is made again until Ctrl-C or SIGTERM ends it.

With --content it receives from the primary of that content, whichever instance that is, and goes
on from the mirror that takes over. What it receives never counts for a commit: names and slots of
mirrors are refused, and of a cluster's server so is whatever would make it synchronous.]],
    examples = [[
  moonrise receivewal --content 0 -D /archive/seg0 -S archive
  moonrise receivewal -h db1 -p 5432 -D /archive/db1 -Z lz4 -v]],
    options = {
        { key = "directory", short = "D", long = "directory", arg = "DIR",
          help = "where the segments go; it is there" },
        { key = "content", long = "content", arg = "N", kind = "int", min = -1,
          help = "from the primary of this content of the cluster" },
        { key = "dbid", long = "dbid", arg = "N", kind = "int", min = 1,
          help = "from this instance of the cluster, a mirror as well" },
        { key = "datadir", long = "datadir", arg = "DIR",
          help = "data directory of the cluster's coordinator" },
        { key = "end_lsn", short = "E", long = "endpos", arg = "LSN",
          help = "end when more than this is there" },
        { key = "no_loop", short = "n", long = "no-loop", help = "end when the link is lost" },
        { key = "no_sync", long = "no-sync", help = "do not flush what is written" },
        { key = "status_s", short = "s", long = "status-interval", arg = "SECS", kind = "int",
          min = 0, max = 2147483, default = 10,
          help = "time between two reports to the server (default 10)" },
        { key = "silence", long = "silence", arg = "TIME", kind = "duration", min = 1000,
          default = 60000, help = "a server that says nothing for so long is dead (default 60s)" },
        { key = "slot", short = "S", long = "slot", arg = "SLOTNAME",
          help = "replication slot that has the server keep what is not here yet" },
        { key = "synchronous", long = "synchronous", help = "flush, and report, at once" },
        { key = "verbose", short = "v", long = "verbose", help = "say what is received" },
        { key = "compress", short = "Z", long = "compress", arg = "METHOD[:LEVEL]",
          default = "none", help = "gzip, lz4 or none" },
        { key = "create_slot", long = "create-slot", help = "make the slot, and end" },
        { key = "if_not_exists", long = "if-not-exists", help = "... it may be there already" },
        { key = "drop_slot", long = "drop-slot", help = "drop the slot, and end" },
        { key = "conninfo", short = "d", long = "dbname", arg = "CONNSTR",
          help = "connection string; without a password" },
        { key = "host", short = "h", long = "host", arg = "HOSTNAME",
          help = "server's host or socket directory" },
        { key = "port", short = "p", long = "port", arg = "PORT", kind = "int", min = 1,
          max = 65535, help = "server's port" },
        { key = "user", short = "U", long = "username", arg = "NAME", help = "server's role" },
        { key = "no_password", short = "w", long = "no-password",
          help = "taken for pg_receivewal's sake: nothing asks for one" },
        { key = "password", short = "W", long = "password", hidden = true, help = "" },
        { key = "version", short = "V", long = "version", help = "say which moonrise this is" },
        { key = "help", short = "?", long = "help", help = "this text" },
    },
    check = check,
    main = main,
}
