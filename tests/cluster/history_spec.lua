--- Directories of a pair that somebody has put back from older copies of themselves: no
--- acknowledged row is lost to them (SAFETY.md, rules 1 and 9).

local checkup = require("tests.lib.checkup")
local cluster_of = require("tests.lib.cluster")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local SOON_S = wait.SOON_S

describe("an older copy", function()
    local place, cluster, rows

    setup(function()
        place = place_of.new()
        cluster = cluster_of.new(place, { segments = 1, settings = { autovacuum = "off" } })
        cluster:init()
        cluster:primary(0):sql("create extension amcheck; create table t (who text)")
        rows = 0
    end)

    teardown(place_of.close_all)

    local function acknowledged(how_many)
        cluster:primary(0):sql(("insert into t select 'row' from generate_series(1, %d)")
            :format(how_many), { timeout_s = SOON_S })
        rows = rows + how_many
    end

    -- The stopped directory of `server` is copied, the pair goes on, and the copy is put back.
    local function put_back(server)
        local copy = server.datadir .. ".copy"
        cluster:must({ "stop", "-a" })
        place:must({ "cp", "-a", server.datadir, copy })
        cluster:must({ "start", "-a" })
        acknowledged(3)
        cluster:must({ "stop", "-a" })
        place:must({ "rm", "-r", server.datadir })
        place:must({ "mv", copy, server.datadir })
    end

    local function nothing_missing()
        checkup.pair(cluster, 0)
        for _, server in ipairs({ cluster:primary(0), cluster:mirror(0) }) do
            assert.are.equal(tostring(rows), server:value("select count(*) from t"))
        end
    end

    local function refused(args, primary)
        local result = cluster:moonrise(args)
        assert.are.equal(1, result.code, result.out)
        assert.matches(("dbid %d.*is an older copy of itself: its WAL .- what its mirror has")
            :format(primary.dbid), result.err)
        return result.err
    end

    it("of a primary is not started, nor its mirror let go or overwritten: it takes over",
        function()
        local primary, mirror = cluster:primary(0), cluster:mirror(0)
        put_back(primary)
        assert.matches("its mirror, dbid " .. mirror.dbid .. ", has every acknowledged commit",
            refused({ "start", "-a" }, primary), 1, true)
        assert.is_false(primary:running())
        assert.is_true(mirror:running())
        refused({ "recoverseg", "-a" }, primary)
        assert.are.equal("s", cluster:mirror(0).mode)
        cluster:watch()
        cluster:wait_row({ dbid = mirror.dbid, role = "p" }, SOON_S)
        acknowledged(1)
        cluster:recover()
        cluster:unwatch(SOON_S)
        nothing_missing()
    end)

    it("of a primary is replaced by its mirror where a person says so", function()
        local primary, mirror = cluster:primary(0), cluster:mirror(0)
        put_back(primary)
        assert.matches("recoverseg --promote " .. mirror.dbid,
            refused({ "start", "-a" }, primary), 1, true)
        cluster:must({ "recoverseg", "-a", "--promote", mirror.dbid })
        assert.are.equal(mirror.dbid, cluster:primary(0).dbid)
        cluster:recover()
        nothing_missing()
    end)

    it("of a mirror is caught up", function()
        put_back(cluster:mirror(0))
        cluster:moonrise({ "start", "-a" })
        cluster:mend()
        nothing_missing()
    end)
end)
