--- A cluster without a watcher, one pair, and its mirror lost: for specs of recoverseg.
---
---     local pair = losing.pair(place, { settings = {...}, rows = 20000 })
---     pair:lose()
---     pair:recovers("differential", "--differential")

local checkup = require("tests.lib.checkup")
local cluster_of = require("tests.lib.cluster")
local place_of = require("tests.lib.place")

local assert = require("luassert")

local M = {}
local Pair = {}
Pair.__index = Pair

local BIG = [[
create extension amcheck;
create table big as select i, repeat(md5(i::text), 8) from generate_series(1, %d) i]]

--- Makes a cluster of one segment.
---@param place table
---@param options? table those of tests/lib/cluster.lua; rows: of a table on the primary, for which
--- a copy takes some time
---@return table pair {cluster, place, target = the mirror}
function M.pair(place, options)
    local cluster = cluster_of.new(place, options)
    cluster:init()
    if options and options.rows then
        cluster:primary(0):sql(BIG:format(options.rows))
    end
    return setmetatable({ cluster = cluster, place = place }, Pair)
end

--- Whatever a test left: both run and are in sync again. Then `target` is the mirror.
function Pair:heal()
    self.cluster:mend()
    self.target = self.cluster:mirror(0)
end

-- By the catalog's own function: nobody watches here. The primary waits for nobody then.
local function record_down(cluster, content)
    cluster:catalog(([[
        begin;
        select moonrise.mirror_down(moonrise.lease_take(%d, 'spec', 'spec', 'x', '1 minute'), %d,
            'spec');
        select moonrise.lease_drop(token) from content_lease where content = %d;
        commit]]):format(content, content, content))
    local primary = cluster:primary(content)
    primary:sql("alter system set synchronous_standby_names = ''")
    primary:sql("select pg_reload_conf()")
end

--- Kills the mirror of a cluster that nobody watches, and records it as down.
---@param cluster table
---@param content integer
function M.of(cluster, content)
    cluster:mirror(content):kill()
    record_down(cluster, content)
end

--- Records the mirror as down.
function Pair:record_down()
    record_down(self.cluster, 0)
end

--- Kills the mirror.
function Pair:lose()
    self.target:kill()
    self:record_down()
end

--- Runs a shell script with the target's data directory as its $1.
function Pair:sh(script, ...)
    return self.place:must({ "sh", "-c", script, "sh", self.target.datadir, ... })
end

--- recoverseg -a fails, says why and names the instance, and leaves its row as it was.
---@param words string a pattern
---@param ... string arguments
---@return table result
function Pair:fails(words, ...)
    local before = self.cluster:rows()
    local result = self.cluster:moonrise({ "recoverseg", "-a", ... })
    assert.are.equal(1, result.code, result.out)
    assert.matches(words, result.err)
    assert.matches("dbid " .. self.target.dbid, result.err, 1, true)
    assert.matches(self.target.datadir, result.err, 1, true)
    assert.are.same(before, self.cluster:rows())
    return result
end

--- recoverseg -a brings it back, and all is as it must be afterwards.
---@param kind string the type that it tells
---@param ... string arguments
---@return string out
function Pair:recovers(kind, ...)
    local out = self.cluster:must({ "recoverseg", "-a", ... })
    assert.matches("recovered by " .. kind, out)
    checkup.pair(self.cluster, 0)
    return out
end

--- What the journal says of the last recovery: type, bytes_written and so on, as texts.
---@return table<string, string>
function Pair:last_recovery()
    return self.cluster:catalog([[
        select data->>'type' as type, data->>'bytes_written' as bytes_written,
               data->>'bytes_done' as bytes_done, data->>'resumed' as resumed
        from journal where kind = 'recovered' order by id desc limit 1]])[1]
end

--- Whether a recovery of the target is unfinished.
---@return boolean
function Pair:half_made()
    return place_of.read(self.target.datadir .. "/moonrise.patch") ~= nil
end

return M
