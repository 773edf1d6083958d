--- Clusters over test hosts for specs of recoveries: primaries on one host, a mirror on each other.
---
---     setup(function() far = far_of.new(place, { mirrors = { "sdw2", "sdw3" } }) end)
---     local test = far_of.tests(getfenv(), function() return far end)
---
---     far:lose(0)
---     local run = far:copying({ 0 }, "-F")
---     local mend = far:once(far.lab:cut("sdw1", "sdw2"))
---     far:fails(run, 0, "sdw2")
---
--- Nobody watches, so that nothing is done that a test does not do.

local checkup = require("tests.lib.checkup")
local cluster_of = require("tests.lib.cluster")
local copy = require("tests.lib.copy")
local hosts = require("tests.lib.hosts")
local losing = require("tests.lib.losing")
local needs = require("tests.lib.needs")
local place_of = require("tests.lib.place")
local undone = require("tests.lib.undone")
local wait = require("tests.lib.wait")

local assert = require("luassert")

local M = {}
local Far = {}
Far.__index = Far

local COORDINATOR, PRIMARIES = "cdw", "sdw1"
-- Disks in memory: what is written there need not outlive the test.
local DISK = "1g"
-- By then a command has noticed that somebody is silent.
local NOTICED_S = 40
local SOON_S = wait.SOON_S
-- Bytes that do not compress.
local DATA = [[
create extension amcheck;
create table big as select i, sha512(i::text::bytea) as b from generate_series(1, %d) i;
create index on big (i)]]
local ROWS = 120000
-- At this rate a copy of them takes a few seconds.
local RATE = "5MB"
local SETTINGS = { autovacuum = "off", wal_receiver_timeout = "4s", wal_sender_timeout = "4s" }

local function places_of(mirrors)
    local places = { coordinator = COORDINATOR }
    for i, host in ipairs(mirrors) do
        places["primary" .. i - 1], places["mirror" .. i - 1] = PRIMARIES, host
    end
    return places
end

local function names_of(mirrors, spares)
    local names, seen = { COORDINATOR, PRIMARIES }, {}
    for _, list in ipairs({ mirrors, spares or {} }) do
        for _, name in ipairs(list) do
            if not seen[name] then
                seen[name] = true
                table.insert(names, name)
            end
        end
    end
    return names
end

--- Makes the hosts and the cluster; where there can be no hosts, only says why.
---@param place table
---@param options {mirrors: string[], spares: string[]?, disks: table<string, string>?,
--- rows: integer?, settings: table?, watch: table?} `mirrors`: the host of each content's mirror;
--- `spares`: hosts of nobody yet
---@return table far {place, lab, cluster}, or {why_not}
function M.new(place, options)
    local lab, why_not = hosts.open(place, names_of(options.mirrors, options.spares),
        { memory = DISK, disks = options.disks })
    if not lab then
        return { why_not = why_not }
    end
    local cluster = cluster_of.new(place, { lab = lab, hosts = places_of(options.mirrors),
        segments = #options.mirrors, settings = copy(SETTINGS, options.settings),
        watch = options.watch,
        hba = { "host pinned pinned 10.9.0.0/16 scram-sha-256" } })
    cluster:init()
    for content = 0, #options.mirrors - 1 do
        cluster:primary(content):sql(DATA:format(options.rows or ROWS))
    end
    return setmetatable({ place = place, lab = lab, cluster = cluster, contents = #options.mirrors,
        undone = undone.new() }, Far)
end

--- For the tests of a spec: each finds every pair in sync, and what it does is undone after it.
---@param busted table the spec's environment
---@param get fun(): table the far
---@return fun(what: string, fn: fun(), long: any?) test skipped where there are no hosts
function M.tests(busted, get)
    local function each(method)
        return function()
            if get().lab then
                method(get())
            end
        end
    end
    busted.before_each(each(Far.ready))
    busted.after_each(each(Far.undo))
    return needs.of(busted, function()
        return get().lab, get().why_not
    end)
end

--- What a test does to a host or a link is undone by itself or, when that fails, after it.
---@param fn fun()
---@return fun() once
function Far:once(fn)
    return self.undone:once(fn)
end

--- Whatever the test before has left, the next one finds every pair in sync.
function Far:ready()
    if not pcall(self.cluster.wait_healthy, self.cluster, 0) then
        self.cluster:mend()
    end
end

--- Undoes what a test has left, and ends the commands that it has begun.
function Far:undo()
    self.undone:all()
end

--- Kills a mirror and records that it is down.
---@param content integer
function Far:lose(content)
    losing.of(self.cluster, content)
end

--- Cuts a host's power until the test ends.
---@param name string
---@return fun() on
function Far:power_off(name)
    self.lab[name]:power_off()
    return self:once(function()
        self.lab[name]:power_on()
    end)
end

--- How many bytes of a mirror's copy are done.
---@param content integer
---@return integer
function Far:copied(content)
    local text = place_of.read(self.cluster:mirror(content).datadir .. "/moonrise.progress") or ""
    return tonumber(text:match("bytes_done%D+(%d+)")) or 0
end

--- Begins a recovery, and waits until the copies of these contents have come to something.
---@param contents integer[]
---@param ... string arguments
---@return table run
function Far:copying(contents, ...)
    local run = self.cluster:start({ "recoverseg", "-a", "--max-rate", RATE, ... })
    self:once(function()
        if not run:code() then
            run:kill("KILL")
        end
    end)
    for _, content in ipairs(contents) do
        wait.eventually("some bytes to be copied", SOON_S, function()
            assert(not run:code(), run:output())
            return self:copied(content) > 500000, run:output()
        end)
    end
    return run
end

--- A recovery ends in time, says why, and leaves the row of the content as it was.
---@param run table
---@param content integer
---@param ... string each is in what it says
function Far:fails(run, content, ...)
    assert.are.equal(1, run:wait(NOTICED_S), run:output())
    local said = run:output()
    assert.is_nil(said:find("traceback", 1, true), said)
    for _, text in ipairs({ ... }) do
        assert.matches(text, said, 1, true)
    end
    assert.are.same({ "d", "n" }, { self.cluster:mirror(content).status,
        self.cluster:mirror(content).mode })
end

--- A plain rerun goes on with what is half done, and ends it well.
---@param contents integer[]
function Far:runs_again(contents)
    assert.matches("an unfinished recovery is in the directory",
        self.cluster:must({ "recoverseg", "-a" }), 1, true)
    for _, content in ipairs(contents) do
        checkup.pair(self.cluster, content)
    end
end

--- Whether the agents of a host, and what they have started for copies, have ended.
---@param name string
---@return boolean
---@return string processes
function Far:no_agents(name)
    local said = self.lab[name]:run("pgrep -af 'moonrise agen[t]'").out
    return said == "", said
end

return M
