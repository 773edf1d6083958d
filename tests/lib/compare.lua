--- Compares two instances of a pair file by file and block by block, once replay has caught up.
---
---     local differences = compare.pair(primary, mirror)
---     assert.are.same({}, differences)
---
--- The files are read, not the tables: a look through SQL sets hints, and the page image that is
--- logged with a hint would repair on the mirror what a recovery copied wrong. So this comes before
--- any query on the data, and the cluster of such a spec has no autovacuum.

local pagemask = require("tests.lib.pagemask")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local M = {}

local PAGE = pagemask.BYTES
local ZEROS = ("\0"):rep(PAGE)
local AT_MOST = 20 -- differences that are worth telling

-- The directories whose files belong to both sides; in pg_xact and pg_multixact no page has a
-- header, and nothing is masked.
local WHERE = "base global pg_tblspc pg_xact pg_multixact"

-- Not compared, and why.
local LEFT_OUT = {
    { "/pg_internal%.init$", "a cache that each server writes for itself" },
    { "/pgsql_tmp", "temporary files of one server" },
    { "/t%d+_%d+", "temporary tables are not logged" },
    { "_fsm", "free space is a guess that is not logged; replay makes its own" },
    { "^global/pg_control$", "each server's own state" },
}

local function left_out(name)
    for _, rule in ipairs(LEFT_OUT) do
        if name:find(rule[1]) then
            return true
        end
    end
    return false
end

-- The sizes of all files by name relative to the data directory, links of tablespaces followed.
local function files(server)
    local found = {}
    local line = "cd %s && find -L %s -type f -printf '%%s %%p\\n' 2>/dev/null"
    local pipe = io.popen(line:format(place_of.quote(server.datadir), WHERE))
    for text in pipe:lines() do
        local size, name = text:match("^(%d+) (.*)$")
        if not left_out(name) then
            found[name] = tonumber(size)
        end
    end
    pipe:close()
    return found
end

-- An unlogged relation has an init fork. Of the others of its forks a standby has none or an empty
-- one: they are not logged, and the primary's are left out of a copy.
local function unlogged(either, name)
    local relation = name:match("^(.*/%d+)[^/]*$")
    return relation and not name:find("_init$") and either(relation .. "_init")
end

local function is_relation(name)
    local dir, file = name:match("^(.*)/([^/]+)$")
    return file:find("^%d+") ~= nil and not dir:find("^pg_[xm]")
end

local function hex(text, at)
    return (text:sub(at, at + 11):gsub(".", function(char)
        return ("%02x"):format(char:byte())
    end))
end

-- Where two pages differ, with some bytes of both; nil when they do not.
local function page_difference(a, b)
    if a == b then
        return nil
    end
    -- A table is extended without WAL: pages of zeros at one end alone mean nothing.
    a, b = a == "" and ZEROS or a, b == "" and ZEROS or b
    if #a ~= PAGE or #b ~= PAGE then
        return "cut short"
    end
    a, b = pagemask.masked(a), pagemask.masked(b)
    for at = 1, a ~= b and PAGE or 0 do
        if a:byte(at) ~= b:byte(at) then
            return ("byte %d: %s %s"):format(at - 1, hex(a, at), hex(b, at))
        end
    end
    return nil
end

-- The empty page of an unlogged index is written before its image is logged: on the primary its LSN
-- stays zero.
local function without_lsn(text)
    return text == "" and text or ZEROS:sub(1, 8) .. text:sub(9)
end

local function compare_relation(differences, name, one, two)
    local block, init = 0, name:find("_init$")
    repeat
        local a, b = one:read(PAGE) or "", two:read(PAGE) or ""
        if init then
            a, b = without_lsn(a), without_lsn(b)
        end
        local what = page_difference(a, b)
        if what then
            table.insert(differences, ("%s: block %d, %s"):format(name, block, what))
        end
        block = block + 1
    until (a == "" and b == "") or #differences > AT_MOST
end

local function compare_file(differences, name, primary, mirror)
    local one = io.open(primary.datadir .. "/" .. name, "rb")
    local two = io.open(mirror.datadir .. "/" .. name, "rb")
    if not one or not two then
        table.insert(differences, ("%s: vanished while it was read"):format(name))
    elseif is_relation(name) then
        compare_relation(differences, name, one, two)
    elseif one:read("*a") ~= two:read("*a") then
        table.insert(differences, name)
    end
    for _, file in pairs({ one, two }) do
        file:close()
    end
end

--- Has both servers write out what they hold, at the same position. Nobody writes meanwhile.
---@param primary table a server of tests/lib/pg.lua
---@param mirror table
function M.settle(primary, mirror)
    primary:sql("checkpoint")
    mirror:catch_up(primary, 60)
    -- A restart point: it writes all that was replayed, and removes the files of what was dropped.
    mirror:sql("checkpoint")
    local redo = primary:value("(select redo_lsn from pg_control_checkpoint())")
    wait.patiently("a restart point at " .. redo, wait.SOON_S, function()
        return mirror:value("(select redo_lsn from pg_control_checkpoint())") == redo
    end)
end

-- A server that is killed keeps the files of tables that were being made, and perhaps had not yet
-- written the WAL that tells of them: what the catalogs do not know is no data.
local function orphan(primary, name)
    local space, database, node = name:match("^pg_tblspc/(%d+)/[^/]+/(%d+)/(%d+)")
    if not node then
        space, database, node = "0", name:match("^base/(%d+)/(%d+)")
    end
    local known = node and primary:sql(("select datname from pg_database where oid = %s")
        :format(database))[1]
    return known and primary:value(("pg_filenode_relation(%s, %s)"):format(space, node),
        { dbname = known.datname }) == nil
end

-- All names of either side, in order.
local function names_of(ours, theirs)
    local names = {}
    for _, side in ipairs({ ours, theirs }) do
        for name in pairs(side) do
            if side == ours or not ours[name] then
                names[#names + 1] = name
            end
        end
    end
    table.sort(names)
    return names
end

--- What differs between the data files of the two: an empty list when nothing does.
---@param primary table a server of tests/lib/pg.lua
---@param mirror table
---@return string[] differences
function M.pair(primary, mirror)
    M.settle(primary, mirror)
    local differences, ours, theirs = {}, files(primary), files(mirror)
    local function either(name)
        return ours[name] or theirs[name]
    end
    for _, name in ipairs(names_of(ours, theirs)) do
        if #differences > AT_MOST then
            break
        elseif not theirs[name] then
            if not unlogged(either, name) and not orphan(primary, name) then
                table.insert(differences, name .. ": only on the primary")
            end
        elseif ours[name] and theirs[name] and not unlogged(either, name) then
            compare_file(differences, name, primary, mirror)
        elseif not ours[name] and theirs[name] > 0 and not unlogged(either, name) then
            -- A table that is dropped while a checkpoint begins keeps an empty file until the next
            -- one: a copy may catch it although the drop is older than the WAL that is replayed.
            table.insert(differences, name .. ": only on the mirror")
        end
    end
    return differences
end

return M
