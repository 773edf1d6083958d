--- The catalog's SQL on a stock server, for specs: a database of its own for each case, and role
--- moonrise, which may do what the functions allow.
---
---     catalog.open()
---     local token = catalog.fresh()
---     catalog.refused("MR001", "not in sync", "select promote(1, 0, 4, '{}')")

local assert = require("luassert")
local pg = require("tests.lib.pg")
local place_of = require("tests.lib.place")

local M = {}

local count = 0

local function load_catalog(dbname)
    local texts = { "begin; set local search_path = pg_catalog, moonrise, pg_temp;" }
    for _, name in ipairs(require("lib.catalog.files")) do
        texts[#texts + 1] = assert(place_of.read(("scripts/lib/catalog/%s.sql"):format(name)))
    end
    texts[#texts + 1] = "commit;"
    M.server:sql(table.concat(texts, "\n"), { dbname = dbname })
end

--- Runs SQL in one session as role moonrise; the last statement's rows, or nil and psql's words.
---@param sql string
---@return table[]? rows
---@return string? message
function M.try(sql)
    return M.server:try_sql("set session authorization moonrise; " .. sql, { dbname = M.database })
end

--- The same, and it must work.
---@param sql string
---@return table[] rows
function M.must(sql)
    local rows, message = M.try(sql)
    return rows or error(message, 2)
end

--- The value of an expression or query.
---@param sql string
---@return string?
function M.value(sql)
    local row = M.must("select (" .. sql .. ") as value")[1]
    return row and row.value
end

--- The facts of a record on these hosts, of the coordinator's pair as it is.
---@param ... string
---@return string json
function M.record(...)
    return ('{"majority": {"epoch": %s, "catalog_epoch": %s, "hosts": ["%s"]}}'):format(
        M.value("select epoch from pair_state where content = -1"),
        M.value("select epoch + 1000 from cluster_state"), table.concat({ ... }, '", "'))
end

--- The SQL must fail with this SQLSTATE, and words that hold these.
---@param sqlstate string
---@param words string
---@param sql string
function M.refused(sqlstate, words, sql)
    local rows, message = M.try("\\set VERBOSITY verbose\n" .. sql)
    assert.is_nil(rows, "not refused: " .. sql)
    assert.matches("ERROR:  " .. sqlstate, message, 1, true)
    assert.matches(words, message, 1, true)
end

--- Takes the lease of a content.
---@param content integer
---@param intent? string
---@return string token
function M.lease(content, intent)
    return M.value(("lease_take(%d, 'spec', '%s', 'begin', '1 hour')"):format(content,
        intent or "spec"))
end

--- A call that adds an instance: of a token, content, role, port, and twice a number, then its
--- directory's.
M.INSTANCE = [[instance_add(%s, '{"content": %d, "role": "%s", "port": %d, "hostname": "h%d",
    "address": "10.0.0.%d", "datadir": "/data/%d"}')]]

--- Adds an instance.
---@param token string
---@param content integer
---@param role string
---@param port integer also names its host and its directory
---@return string dbid
function M.add(token, content, role, port)
    local n = port % 100
    return M.value(M.INSTANCE:format(token, content, role, port, n, n, port))
end

--- A content's rows, as dbid, role, preferred role, mode and status of each: "3ppsu 4mmsu".
---@param content integer
---@return string
function M.pair(content)
    local rows = M.must(("select dbid, role, preferred_role as preferred, mode, status from " ..
        "gp_segment_configuration where content = %d order by dbid"):format(content))
    local lines = {}
    for _, row in ipairs(rows) do
        lines[#lines + 1] = table.concat({
            row.dbid, row.role, row.preferred, row.mode, row.status })
    end
    return table.concat(lines, " ")
end

--- Records a pair as in sync.
---@param token string
---@param content integer
---@return string epoch
function M.arm(token, content)
    local epoch = M.value(("epoch_reserve(%s, %d, 'arm')"):format(token, content))
    local dbid = M.value(("select dbid from gp_segment_configuration where role = 'm' " ..
        "and content = %d"):format(content))
    local form = '{"name": "mr_%s_%s_%s", "insert_lsn": "0/1", "flush_lsn": "0/1", "timeline": 1}'
    local evidence = form:format(content == -1 and "c" or content, dbid, epoch)
    return M.value(("in_sync(%s, %d, %s, '%s')"):format(token, content, epoch, evidence))
end

--- Makes the server, with a database that holds the empty catalog.
function M.open()
    M.place = place_of.new()
    M.server = pg.new(M.place, { settings = { max_connections = "40" } })
    M.server:start()
    M.server:sql("create role moonrise login replication; create database catalog")
    load_catalog("catalog")
end

--- A catalog of its own: a coordinator with its standby, one mirrored segment.
---@return string token of the segment's lease
---@return string coordinator the other content's
function M.fresh()
    count = count + 1
    M.database = "catalog" .. count
    M.server:sql(("create database %s template catalog; " ..
        "alter database %s set search_path = moonrise"):format(M.database, M.database))
    M.server:sql("select cluster_create('spec', 'return {}')", { dbname = M.database })
    local coordinator, token = M.lease(-1), M.lease(0)
    M.add(coordinator, -1, "p", 5432)
    M.add(coordinator, -1, "m", 5433)
    M.add(token, 0, "p", 6000)
    M.add(token, 0, "m", 7001)
    M.value(("mirror_up(%s, -1, 'spec')"):format(coordinator))
    M.value(("mirror_up(%s, 0, 'spec')"):format(token))
    return token, coordinator
end

return M
