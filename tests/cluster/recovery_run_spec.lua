--- recoverseg on real servers: options, several instances, several runs, signals.

local checkup = require("tests.lib.checkup")
local cluster_of = require("tests.lib.cluster")
local json = require("dkjson")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local SOON_S = wait.SOON_S
local SETTINGS = { autovacuum = "off" }

describe("recoverseg, run", function()
    local place, cluster

    setup(function()
        place = place_of.new()
        cluster = cluster_of.new(place, { segments = 2, settings = SETTINGS })
        cluster:init()
        for content = 0, 1 do
            cluster:primary(content):sql("create extension amcheck; " ..
                "create table big as select i, repeat(md5(i::text), 8) from " ..
                "generate_series(1, 60000) i")
        end
    end)

    teardown(place_of.close_all)

    before_each(function()
        cluster:moonrise({ "recoverseg", "-a" })
        cluster:wait_healthy()
    end)

    local function lose(...)
        for _, content in ipairs({ ... }) do
            cluster:mirror(content):kill()
        end
        local watch = cluster:watch()
        for _, content in ipairs({ ... }) do
            cluster:wait_row({ content = content, role = "m", status = "d", mode = "n" }, SOON_S)
            local primary = cluster:primary(content)
            wait.eventually("the primary to be released", SOON_S, function()
                return primary:value("current_setting('synchronous_standby_names')") == ""
            end)
        end
        watch:kill("TERM")
        watch:wait(SOON_S)
    end

    local function half_made(content)
        return place_of.read(cluster:mirror(content).datadir .. "/moonrise.patch")
    end

    local function is_copying(run, content)
        wait.eventually("the copy to be half made", SOON_S, function()
            return half_made(content), run:output()
        end)
    end

    it("with nothing to recover says so", function()
        assert.matches("No segments to recover", cluster:must({ "recoverseg", "-a" }))
        local told = json.decode(cluster:must({ "recoverseg", "-a", "--json" }))
        assert.are.same({}, told.recovered)
        assert.are.same({}, told.skipped)
    end)

    -- As a recovery that was killed before it had armed leaves it.
    local function not_in_sync(content)
        local token = cluster:catalog(("select moonrise.lease_take(%d, 'spec', 'recover', 'x', " ..
            "'1 minute') as token"):format(content))[1].token
        cluster:catalog(("select moonrise.out_of_sync(%s, %d, 'spec')"):format(token, content))
        cluster:catalog(("select moonrise.lease_drop(%s)"):format(token))
    end

    it("brings a pair in sync whose mirror is up, without a watcher", function()
        not_in_sync(0)
        local mirror = cluster:mirror(0)
        assert.matches("not in sync +dbid " .. mirror.dbid .. " .*: nothing is copied",
            cluster:must({ "recoverseg", "-a", "--dry-run" }))
        assert.are.same({ { dbid = tonumber(mirror.dbid), content = 0, in_sync = false } },
            json.decode(cluster:must({ "recoverseg", "-a", "--dry-run", "--json" })).behind)
        assert.are.equal(2, cluster:moonrise({ "recoverseg" }).code, "nobody was asked")
        cluster:wait_row({ dbid = mirror.dbid, mode = "n" }, 1)
        assert.matches("dbid " .. mirror.dbid .. " .*: in sync again",
            cluster:must({ "recoverseg", "-a" }))
        cluster:wait_row({ dbid = mirror.dbid, mode = "s" }, 1)
    end)

    it("says what to do where a primary is dead and its mirror not in sync", function()
        not_in_sync(0)
        local primary = cluster:primary(0)
        primary:kill()
        local result = cluster:moonrise({ "recoverseg", "-a" })
        assert.are.equal(1, result.code)
        assert.matches("moonrise start", result.err, 1, true)
        assert.not_matches("No segments to recover", result.out)
        cluster:must({ "start", "-a" })
    end)

    it("by a policy of the user's: in its order, and not faster than it says", function()
        lose(0, 1)
        local last, first = cluster:mirror(0), cluster:mirror(1)
        local file = place:write("slowly.lua", ([[
            return { decide = function()
                return { instances = {
                    { dbid = %d, type = "differential", max_rate = 3e7 },
                    { dbid = %d, type = "full" } } }
            end }]]):format(first.dbid, last.dbid))
        local told = json.decode(cluster:must({ "recoverseg", "-a", "--json", "-b", "1",
            "--policy", "recovery=" .. file }))
        assert.are.same({ tonumber(first.dbid), tonumber(last.dbid) },
            { told.recovered[1].dbid, told.recovered[2].dbid })
        assert.are.same({ "differential", "full", 3e7 }, { told.recovered[1].type,
            told.recovered[2].type, told.recovered[1].max_rate })
        local done = cluster:catalog("select dbid from journal where kind = 'recovered' " ..
            "order by id desc limit 2")
        assert.are.same({ { dbid = last.dbid }, { dbid = first.dbid } }, done)
        -- Two readings of 60 MB, at most: it takes as long as it must at that rate.
        assert.is_true(told.recovered[1].took_ms > 1000, told.recovered[1].took_ms)
    end)

    it("with options that contradict each other ends with 2 and touches nothing", function()
        lose(0)
        local rows = cluster:rows()
        for _, args in ipairs({ { "-F", "--differential" }, { "-r", "-F" },
            { "-r", "--differential" }, { "--no-such-option" }, { "stray" }, { "--max-rate", "x" },
            { "--replace-foreign" }, { "--tablespace-mapping", "a=b" },
            { "--policy", "recovery=/nowhere" }, { "-r", "--max-rate", "1MB" },
            { "-r", "--tablespace-mapping", "/a=/b" }, { "--replay-lag", "1MB" },
            { "--policy", "rebalance=policies/rebalance.lua" },
            { "-l", "/proc/nowhere" } }) do
            local result = cluster:moonrise({ "recoverseg", "-a", unpack(args) })
            assert.are.equal(2, result.code, table.concat(args, " "))
            assert.is_nil(result.err:find("traceback", 1, true))
        end
        local result = cluster:moonrise({ "recoverseg" })
        assert.are.equal(2, result.code)
        assert.matches("there is no terminal", result.err, 1, true)
        assert.are.same(rows, cluster:rows())
    end)

    it("dry shows its plan and changes nothing", function()
        lose(0)
        local rows, target = cluster:rows(), cluster:mirror(0)
        local out = cluster:must({ "recoverseg", "--dry-run", "--differential" })
        assert.matches("type        differential", out)
        assert.are.same(rows, cluster:rows())
        assert.are.same({}, cluster:catalog("select * from content_lease"))
        assert.is_false(target:running())
        assert.is_nil(half_made(0))
        local skips = place:write("skips.lua",
            "return { decide = function() return { instances = {} } end }")
        local result = cluster:moonrise({ "recoverseg", "--dry-run", "--json",
            "--policy", "recovery=" .. skips })
        assert.are.equal(1, result.code)
        assert.are.equal(tonumber(target.dbid), json.decode(result.out).skipped[1].dbid)
    end)

    it("tells it as JSON", function()
        lose(0)
        local target = cluster:mirror(0)
        local told = json.decode(cluster:must({ "recoverseg", "-a", "--json", "--differential" }))
        assert.are.equal(tonumber(target.dbid), told.recovered[1].dbid)
        assert.are.equal("differential", told.recovered[1].type)
        assert.is_true(told.recovered[1].took_ms > 0)
        assert.are.same({}, told.skipped)
        checkup.pair(cluster, 0)
    end)

    it("returns roles, and reloads, and tells both as JSON", function()
        local function told(...)
            return json.decode(cluster:must({ ... }))
        end
        assert.are.same({ handed_over = {}, left = {} }, told("recoverseg", "-a", "-r", "--json"))
        local watch = cluster:watched()
        cluster:switch_roles(1)
        watch:kill("TERM")
        watch:wait(SOON_S)
        local home = cluster:mirror(1)
        local plan = told("recoverseg", "-r", "--json", "--dry-run").handed_over[1]
        assert.are.same({ content = 1, primary = tonumber(home.dbid), wave = 1 }, plan)
        local done = told("recoverseg", "-a", "-r", "--json").handed_over[1]
        assert.are.equal(1, done.content)
        assert.is_true(done.stall_ms > 0)
        assert.are.equal(home.dbid, cluster:primary(1).dbid)
        local reloaded = told("stop", "-a", "-u", "--json").instances
        assert.are.equal(5, #reloaded)
        assert.are.equal("reloaded", reloaded[5].outcome)
    end)

    it("twice at once: the second skips what the first holds, and says so", function()
        lose(0)
        local first = cluster:start({ "recoverseg", "-a", "-F", "--max-rate", "20MB" })
        is_copying(first, 0)
        local second = cluster:moonrise({ "recoverseg", "-a" })
        assert.are.equal(1, second.code)
        assert.matches("in the hands of .* pid " .. first.pid, second.err)
        assert.are.equal(0, first:wait(wait.SOON_S), first:output())
        cluster:wait_healthy()
        checkup.pair(cluster, 0)
    end)

    it("for many, of which one fails: the others come up, and it is named", function()
        lose(0, 1)
        local bad = cluster:mirror(0)
        place:must({ "chmod", "a-w", bad.datadir, bad.datadir .. "/global" })
        finally(function()
            place:must({ "chmod", "u+w", bad.datadir, bad.datadir .. "/global" })
        end)
        local result = cluster:moonrise({ "recoverseg", "-a", "--differential" })
        assert.are.equal(1, result.code)
        assert.matches(bad.datadir, result.err, 1, true)
        assert.matches("[Pp]ermission denied", result.err)
        assert.are.equal("d", cluster:mirror(0).status)
        cluster:wait_row({ content = 1, role = "m", status = "u", mode = "s" }, SOON_S)
        place:must({ "chmod", "u+w", bad.datadir, bad.datadir .. "/global" })
        cluster:must({ "recoverseg", "-a" })
        checkup.pair(cluster, 0)
    end)

    it("stopped by SIGTERM leaves the catalog as it was, and the rerun goes on", function()
        lose(0)
        local rows = cluster:rows()
        local run = cluster:start({ "recoverseg", "-a", "-F", "--max-rate", "20MB" })
        is_copying(run, 0)
        run:kill("TERM")
        assert.are.equal(1, run:wait(SOON_S), run:output())
        assert.is_nil(run:output():find("traceback", 1, true))
        assert.are.same(rows, cluster:rows())
        assert.are.same({}, cluster:catalog("select * from content_lease"))
        assert.is_not_nil(half_made(0))
        local out = cluster:must({ "recoverseg", "-a" })
        assert.matches("an unfinished recovery is in the directory", out, 1, true)
        cluster:wait_healthy()
        checkup.pair(cluster, 0)
    end)

    it("goes on when its terminal is lost", function()
        lose(0)
        local run = cluster:start({ "recoverseg", "-a", "-F", "--max-rate", "20MB" })
        is_copying(run, 0)
        run:kill("HUP")
        assert.are.equal(0, run:wait(wait.SOON_S), run:output())
    end)
end)
