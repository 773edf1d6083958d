--- recoverseg to another place, killed between any two of its steps: until the catalog says
--- otherwise all is as it was, and the same command, or another one, goes on.

local checkup = require("tests.lib.checkup")
local gate_of = require("tests.lib.gate")
local losing = require("tests.lib.losing")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local SOON_S = wait.SOON_S
local SETTINGS = { autovacuum = "off" }

describe("recoverseg to another place, killed", function()
    local place, pair, cluster, run, gate
    local count = 0

    setup(function()
        place = place_of.new()
        pair = losing.pair(place, { settings = SETTINGS, rows = 20000 })
        cluster = pair.cluster
    end)

    teardown(place_of.close_all)

    before_each(function()
        pair:heal()
        pair:lose()
    end)

    after_each(function()
        if run and not run:code() then
            run:kill("KILL")
        end
        if gate then
            gate:remove()
            gate = nil
        end
    end)

    -- Changes of the catalog wait from now on, those that are meant.
    local function shut(event, condition)
        gate = gate_of.close(cluster, event, condition)
    end

    local function is_waited_for()
        return gate:reached()
    end

    local function begin()
        count = count + 1
        local old = pair.target
        local to = { port = place_of.free_port(), datadir = place:path("new" .. count),
            host = old.hostname == "::1" and "127.0.0.1" or "::1" }
        local file = place:write("moves", ("%s|%s|%s|%s %s|%s|%d|%s\n"):format(old.hostname,
            old.address, old.port, old.datadir, to.host, to.host, to.port, to.datadir))
        to.command = { "recoverseg", "-a", "-i", file }
        return to
    end

    -- Runs it until a condition holds, and kills it then, with its agents.
    local function killed(to, what, condition, ...)
        local args = { unpack(to.command) }
        for _, arg in ipairs({ ... }) do
            args[#args + 1] = arg
        end
        run = cluster:start(args)
        wait.eventually(what, SOON_S, function()
            return condition(), run:output()
        end)
        run:kill("KILL")
        run:wait(SOON_S)
        -- A statement that is under way when its client dies is carried out all the same.
        if gate then
            gate:remove()
            gate = nil
        end
    end

    local function has_moved(to)
        cluster:wait_healthy()
        local mirror = cluster:mirror(0)
        assert.are.same({ to.host, tostring(to.port), to.datadir },
            { mirror.hostname, tostring(mirror.port), mirror.datadir })
        checkup.pair(cluster, 0)
        assert.are.same({}, cluster:catalog("select * from left_place"))
        assert.is_nil(place_of.read(pair.target.datadir .. "/PG_VERSION"))
    end

    local function is_as_before(rows)
        assert.are.same(rows, cluster:rows())
        assert.is_not_nil(place_of.read(pair.target.datadir .. "/global/pg_control"))
    end

    local function hba_of_primary()
        return place_of.read(cluster:primary(0).datadir .. "/pg_hba.conf")
    end

    local function patch_of(to)
        return place_of.read(to.datadir .. "/moonrise.patch")
    end

    -- Killed where it is about to make this change of the catalog: the same command does it all.
    local function is_run_again(what, event, condition)
        local to, rows = begin(), cluster:rows()
        shut(event, condition)
        killed(to, what, is_waited_for)
        is_as_before(rows)
        cluster:must(to.command)
        has_moved(to)
    end

    it("before anything is written: the same command does it", function()
        is_run_again("the note of the new place", "insert on left_place", "true")
    end)

    it("while it copies: the same command goes on", function()
        local to, rows = begin(), cluster:rows()
        killed(to, "the copy", function()
            return patch_of(to)
        end, "--max-rate", "10MB")
        is_as_before(rows)
        assert.matches("an earlier run is gone on with", cluster:must(to.command))
        has_moved(to)
    end)

    it("with SIGTERM while it copies: it leaves all as it was itself", function()
        local to, rows, hba = begin(), cluster:rows(), hba_of_primary()
        run = cluster:start({ to.command[1], to.command[2], to.command[3], to.command[4],
            "--max-rate", "10MB" })
        wait.eventually("the copy", SOON_S, function()
            return patch_of(to), run:output()
        end)
        assert.are_not.equal(hba, hba_of_primary())
        run:kill("TERM")
        assert.are.equal(1, run:wait(SOON_S), run:output())
        is_as_before(rows)
        assert.are.equal(hba, hba_of_primary())
        assert.are.same({}, cluster:catalog("select * from content_lease"))
    end)

    it("while it copies: a plain recoverseg recovers it where it is, and clears the rest",
        function()
        local to, rows, hba = begin(), cluster:rows(), hba_of_primary()
        killed(to, "the copy", function()
            return patch_of(to)
        end, "--max-rate", "10MB")
        is_as_before(rows)
        cluster:must({ "recoverseg", "-a" })
        checkup.pair(cluster, 0)
        assert.are.equal(pair.target.datadir, cluster:mirror(0).datadir)
        assert.are.same({}, cluster:catalog("select * from left_place"))
        assert.is_nil(patch_of(to))
        assert.are.equal(hba, hba_of_primary())
    end)

    it("with the copy running, and the catalog not told: the same command goes on", function()
        is_run_again("the transition", "update on gp_segment_configuration",
            "old.datadir <> new.datadir")
    end)

    it("with the row moved, and not up: any recoverseg goes on", function()
        local to = begin()
        shut("update on gp_segment_configuration", "old.status = 'd' and new.status = 'u'")
        killed(to, "the mirror to be up", is_waited_for)
        assert.are.equal(to.datadir, cluster:mirror(0).datadir)
        assert.are.equal("d", cluster:mirror(0).status)
        assert.is_not_nil(place_of.read(pair.target.datadir .. "/PG_VERSION"))
        cluster:must({ "recoverseg", "-a" })
        has_moved(to)
    end)

    it("before the old directory is removed: it stays on record, and goes with the next", function()
        local to = begin()
        shut("delete on left_place", "old.datadir = '" .. pair.target.datadir .. "'")
        killed(to, "the old place to be forgotten", is_waited_for)
        assert.are.equal(1, #cluster:catalog("select * from left_place"))
        cluster:wait_row({ dbid = pair.target.dbid, status = "u", mode = "s" }, SOON_S)
        cluster:must({ "recoverseg", "-a" })
        has_moved(to)
    end)
end)
