--- Clients on the coordinator: postgres_fdw servers that follow the primaries.
---
--- A foreign server of ours lists both instances of its pair, the primary first, and asks for a
--- session that can write, so that a client finds the new primary even before anybody has told it.
--- A failover then puts the new primary first, and cancels what hangs on the old one.
---
--- The watcher is no superuser, and the servers are not its own: whoever owns one can send the
--- passwords of its user mappings to a host of his choice. It may turn the order round, by a
--- function that can do nothing else.
local mr = require("moonrise")
local cluster = require("lib.cluster")
local instance = require("lib.instance")
local superuser = require("lib.superuser")

local M = {}

local STATEMENT_MS = 3000

-- All of these are options that postgres_fdw 15 takes from libpq. A host that is gone is noticed
-- after keepalives_idle + keepalives_interval * keepalives_count seconds by who waits for its
-- answer, after tcp_user_timeout milliseconds by who has sent something to it. The names of
-- sessions tell which backend of the coordinator they serve.
local OPTIONS = {
    target_session_attrs = "read-write",
    connect_timeout = "2",
    keepalives = "1",
    keepalives_idle = "3",
    keepalives_interval = "1",
    keepalives_count = "3",
    tcp_user_timeout = "5000",
    application_name = "moonrise fdw %p",
}

local function literal(text)
    return "'" .. tostring(text):gsub("'", "''") .. "'"
end

local function connect(ctx, dbname, coordinator)
    return mr.connect(instance.conninfo(ctx.env, coordinator, {
        dbname = dbname, connect_timeout_ms = STATEMENT_MS, application_name = "moonrise fdw",
        -- The servers change while the standby may be away; nobody shall wait for it.
        options = "-c synchronous_commit=local",
    }))
end

local function server_name(pair)
    return "seg" .. pair.content
end

local function places(pair)
    local hosts, ports = { pair.primary.address }, { tostring(pair.primary.port) }
    if pair.mirror then
        table.insert(hosts, pair.mirror.address)
        table.insert(ports, tostring(pair.mirror.port))
    end
    return table.concat(hosts, ","), table.concat(ports, ",")
end

local function split(text)
    local list = {}
    for item in (text or ""):gmatch("[^,]+") do
        table.insert(list, item)
    end
    return list
end

local function is_place(inst, host, port)
    return tostring(inst.port) == port and (host == inst.address or host == inst.hostname)
end

-- Whether a server's options list this pair's two instances, in either order; of a pair without a
-- mirror its primary alone. `is_at` says whether one is there: by default where it is now.
local function lists(pair, host, port, is_at)
    local hosts, ports = split(host), split(port)
    local instances = pair.mirror and 2 or 1
    local function at(inst, i)
        return (is_at or is_place)(inst, hosts[i], ports[i])
    end
    if #hosts ~= instances or #ports ~= instances then
        return false
    elseif not pair.mirror then
        return at(pair.primary, 1)
    end
    return (at(pair.primary, 1) and at(pair.mirror, 2))
        or (at(pair.primary, 2) and at(pair.mirror, 1))
end

local TURN = [[
create or replace function moonrise.fdw_first(server name, host text, port text) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    hosts text[];
    ports text[];
begin
    select string_to_array(max(o.option_value) filter (where o.option_name = 'host'), ','),
            string_to_array(max(o.option_value) filter (where o.option_name = 'port'), ',')
        into hosts, ports
        from pg_foreign_server s
        join pg_foreign_data_wrapper w on w.oid = s.srvfdw and w.fdwname = 'postgres_fdw'
        cross join pg_options_to_table(s.srvoptions) o
        where s.srvname = server;
    if cardinality(hosts) <> 2 or cardinality(ports) <> 2 or hosts[2] <> host or ports[2] <> port
    then
        return false;
    end if;
    execute format('alter server %I options (set host %L, set port %L)', server,
        hosts[2] || ',' || hosts[1], ports[2] || ',' || ports[1]);
    return true;
end $$]]

-- A database that its owner has made anew may hold a function of this name that is not ours, and
-- would be run with our rights.
local SERVERS_SQL = [[
select s.srvname as name,
       exists (select from pg_proc p join pg_roles r on r.oid = p.proowner and r.rolsuper
               where p.oid = to_regprocedure('moonrise.fdw_first(name, text, text)')) as trusted,
       (select option_value from pg_options_to_table(s.srvoptions)
        where option_name = 'host') as host,
       (select option_value from pg_options_to_table(s.srvoptions)
        where option_name = 'port') as port,
       (select option_value from pg_options_to_table(s.srvoptions)
        where option_name = 'application_name') as application_name
from pg_foreign_server s join pg_foreign_data_wrapper w on w.oid = s.srvfdw
where w.fdwname = 'postgres_fdw']]

local function is_first(pair, server)
    return is_place(pair.primary, split(server.host)[1], split(server.port)[1])
end

local function turn(conn, server, dbname)
    if not server.trusted then
        return nil, mr.error("refused",
            ("database %s: its function moonrise.fdw_first is missing, or is no superuser's")
            :format(dbname), { hint = "install its foreign servers again" })
    end
    return conn:query("select moonrise.fdw_first($1::name, $2::text, $3::text)",
        { server.name, split(server.host)[2], split(server.port)[2] },
        { timeout_ms = STATEMENT_MS })
end

local function point_in(ctx, pair, coordinator, dbname)
    local conn, err = connect(ctx, dbname, coordinator)
    if not conn then
        return nil, err
    end
    local servers
    servers, err = conn:query(SERVERS_SQL, nil, { timeout_ms = STATEMENT_MS })
    local changed = 0
    for _, server in ipairs(servers or {}) do
        if lists(pair, server.host, server.port) and not is_first(pair, server) then
            local ok
            ok, err = turn(conn, server, dbname)
            if not ok then
                conn:close()
                return nil, err
            end
            changed = changed + 1
        end
    end
    conn:close()
    return servers and changed, err
end

local function coordinator_of(ctx)
    local instances, err = ctx.cat:instances()
    for _, inst in ipairs(instances or {}) do
        if inst.content == -1 and inst.role == "p" then
            return inst, instances
        end
    end
    return nil, err or mr.error("notfound", "the catalog has no coordinator")
end

-- A backend of the coordinator waits for a foreign server in the wait event Extension. Whether it
-- is the lost one cannot be seen from here, so the primaries that live are asked which backends
-- they serve.
local WAITING_SQL = [[
select pid from pg_stat_activity
where state = 'active' and wait_event_type = 'Extension' and backend_type = 'client backend'
  and query_start < clock_timestamp() - make_interval(secs => $1)]]

local SERVED_SQL = [[
select substring(application_name from '^moonrise fdw (\d+)$') as pid from pg_stat_activity
where state <> 'idle' and application_name ~ '^moonrise fdw \d+$']]

local function served_by(ctx, inst)
    local conn = mr.connect(instance.conninfo(ctx.env, inst, { connect_timeout_ms = 1000 }))
    local rows = conn and conn:query(SERVED_SQL, nil, { timeout_ms = 1000 })
    if conn then
        conn:close()
    end
    return rows or {}
end

local function served(ctx, instances)
    local primaries, busy = {}, {}
    for _, inst in ipairs(instances) do
        if inst.role == "p" and inst.content >= 0 then
            table.insert(primaries, inst)
        end
    end
    local results = mr.parallel(primaries, 16, function(inst)
        return served_by(ctx, inst)
    end)
    for _, rows in ipairs(results) do
        for _, row in ipairs(rows.error and {} or rows) do
            busy[tonumber(row.pid)] = true
        end
    end
    return busy
end

--- Cancels the statements of the coordinator that wait for a foreign server since `age_ms` or
--- longer and whom no living primary serves: they hang on the one that was lost. Statements of
--- superusers are left.
---@param ctx table {env, cat}
---@param age_ms number
---@return integer? cancelled
---@return Error? err
function M.cancel_hanging(ctx, age_ms)
    local coordinator, instances = coordinator_of(ctx)
    if not coordinator then
        return nil, instances
    end
    local conn, err = connect(ctx, ctx.env.dbname, coordinator)
    if not conn then
        return nil, err
    end
    local rows
    rows, err = conn:query(WAITING_SQL, { age_ms / 1000 }, { timeout_ms = STATEMENT_MS })
    local count = 0
    if rows and #rows > 0 then
        local busy = served(ctx, instances)
        for _, row in ipairs(rows) do
            if not busy[row.pid] and conn:query("select pg_cancel_backend($1)", { row.pid }) then
                count = count + 1
            end
        end
    end
    conn:close()
    return rows and count, err
end

-- The databases that are registered, the coordinator, which has them, and all instances.
local function registered(ctx)
    local databases, err = ctx.cat:query("select dbname::text from fdw_database order by 1")
    if not databases or #databases == 0 then
        return databases, err
    end
    local coordinator, instances = coordinator_of(ctx)
    if not coordinator then
        return nil, instances
    end
    return databases, coordinator, instances
end

--- Puts a pair's primary first in the foreign servers that list the pair, in every database
--- registered. Can be repeated.
---@param ctx table {env, cat}
---@param pair {primary: table, mirror: table?}
---@return integer? changed number of servers that were changed
---@return Error? err the first that occurred; the other databases were done all the same
function M.point(ctx, pair)
    local databases, coordinator = registered(ctx)
    if not databases then
        return nil, coordinator
    end
    local changed, failure = 0, nil
    for _, row in ipairs(databases) do
        local count, err = point_in(ctx, pair, coordinator, row.dbname)
        changed, failure = changed + (count or 0), failure or (not count and err) or nil
    end
    if failure then
        return nil, failure
    end
    return changed
end

local ALTER_SQL = [[
select format('alter server %I options (set host %L, set port %L)', $1::name, $2::text, $3::text)
    as statement]]

-- Both of a pair's places, the one that serves first.
local function relist(conn, server, pair)
    local host, port = places(pair)
    local rows, err = conn:query(ALTER_SQL, { server.name, host, port })
    if rows then
        rows, err = conn:query(rows[1].statement, nil, { timeout_ms = STATEMENT_MS })
    end
    return rows, err
end

-- Whether a server lists both of a pair, at least one of them where it was and is no more.
-- `former` are the places of Catalog:former_places.
local function lists_former(pair, former, server)
    local function is_known(inst, host, port)
        for _, place in ipairs(former) do
            if place.dbid == inst.dbid and is_place(place, host, port) then
                return true
            end
        end
        return is_place(inst, host, port)
    end
    return lists(pair, server.host, server.port, is_known)
        and not lists(pair, server.host, server.port)
end

-- As M.install makes them; all others are somebody's who may want one instance and no other.
local function is_own(pair, server)
    return server.name == server_name(pair)
        and server.application_name == OPTIONS.application_name
end

-- A pair that had no mirror may have changed its roles since it has one.
local function lists_one(pair, server)
    return lists({ primary = pair.primary }, server.host, server.port)
        or lists({ primary = pair.mirror }, server.host, server.port)
end

local function relist_in(conn, pairs_of, is_old)
    local servers, err = conn:query(SERVERS_SQL, nil, { timeout_ms = STATEMENT_MS })
    for _, server in ipairs(servers or {}) do
        for _, pair in ipairs(pairs_of) do
            if is_old(pair, server) then
                local ok
                ok, err = relist(conn, server, pair)
                if not ok then
                    return nil, err
                end
            end
        end
    end
    return servers, err
end

-- Those of a content, or of all, that have a mirror.
local function mirrored(instances, content)
    local list = {}
    for _, pair in ipairs(cluster.pairs(instances)) do
        if pair.mirror and (content == nil or pair.content == content) then
            table.insert(list, pair)
        end
    end
    return list
end

-- In every database registered, as the coordinator's superuser, by its host's agent.
local function relist_where(ctx, content, is_old)
    local databases, coordinator, instances = registered(ctx)
    if not databases then
        return nil, coordinator
    end
    local failure
    for _, row in ipairs(databases) do
        local ok, err = relist_in(superuser.of(ctx.agents, coordinator, row.dbname),
            mirrored(instances, content), is_old)
        failure = failure or (not ok and err) or nil
    end
    if failure then
        return nil, failure
    end
    return true
end

--- Has the foreign servers that list an instance at a place that it has left list it where it is,
--- in every database registered. Which places those are the journal says, so it can be repeated,
--- and whoever comes after a run that was killed does what that has left undone.
---@param ctx table {env, cat, agents}
---@param content? integer of this pair only
---@return boolean? ok
---@return Error? err the first that occurred; the other databases were done all the same
function M.follow(ctx, content)
    local former, err = ctx.cat:former_places()
    if not former or #former == 0 then
        return former and true, err
    end
    return relist_where(ctx, content, function(pair, server)
        return lists_former(pair, former, server)
    end)
end

--- Has the foreign server that M.install has made for a pair, and that lists one instance, since
--- there was no mirror, list both, in every database registered. Other people's are left alone.
---@param ctx table {env, cat, agents}
---@param content integer
---@return boolean? ok
---@return Error? err the first that occurred; the other databases were done all the same
function M.list_both(ctx, content)
    return relist_where(ctx, content, function(pair, server)
        return is_own(pair, server) and lists_one(pair, server)
    end)
end

local function create_server(env, pair, dbname)
    local host, port = places(pair)
    local options = { "host " .. literal(host), "port " .. literal(port),
        "dbname " .. literal(dbname) }
    for key, value in pairs(OPTIONS) do
        table.insert(options, key .. " " .. literal(value))
    end
    for _, key in ipairs({ "sslmode", "sslrootcert" }) do
        if env[key] then
            table.insert(options, key .. " " .. literal(env[key]))
        end
    end
    table.sort(options)
    local form = "create server if not exists %s foreign data wrapper postgres_fdw options (%s)"
    return form:format(server_name(pair), table.concat(options, ", "))
end

local function statements(env, instances, dbname)
    local list = { "create schema if not exists moonrise",
                   "grant usage on schema moonrise to moonrise",
                   "create extension if not exists postgres_fdw schema moonrise", TURN,
                   "revoke all on function moonrise.fdw_first(name, text, text) from public",
                   "grant execute on function moonrise.fdw_first(name, text, text) to moonrise" }
    for _, pair in ipairs(cluster.pairs(instances)) do
        if pair.content >= 0 then
            table.insert(list, create_server(env, pair, dbname))
        end
    end
    return list
end

--- Makes foreign servers seg0, seg1, ... in a database of the coordinator, one for each segment,
--- and registers the database so that they follow every failover. As the coordinator's superuser,
--- by its host's agent.
---@param ctx table {env, cat, agents}
---@param dbname string also the database's name on the segments
---@return boolean? ok
---@return Error? err
function M.install(ctx, dbname)
    local coordinator, instances = coordinator_of(ctx)
    if not coordinator then
        return nil, instances
    end
    local ok, err = superuser.of(ctx.agents, coordinator, dbname):run(
        statements(ctx.env, instances, dbname))
    if ok then
        ok, err = ctx.cat:call("fdw_database_set", dbname, true)
    end
    return ok ~= nil or nil, err
end

return M
