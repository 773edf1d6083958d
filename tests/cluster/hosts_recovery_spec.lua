--- Recoveries from one host to another while something happens to either, to what is between them,
--- or to the host where the command runs: each ends in time and says why, leaves the catalog's row
--- as it was, and is simply run again.

local hosts_cluster = require("tests.lib.hosts_cluster")
local needs = require("tests.lib.needs")
local pinned = require("tests.lib.pinned")
local place_of = require("tests.lib.place")
local undone_of = require("tests.lib.undone")
local wait = require("tests.lib.wait")

local SOON_S = wait.SOON_S
-- By then a command has noticed that somebody is silent.
local NOTICED_S = 45
local NAMES = { "cdw", "sdw1", "sdw2" }
local PLACES = { coordinator = "cdw", primary0 = "sdw1", mirror0 = "sdw2" }
-- Bytes that do not compress; at MBIT_S a copy of them takes some time.
local DATA = "create table big as select string_agg(sha512(i::text::bytea), ''::bytea) as b "
    .. "from generate_series(1, 400000) i group by i / 100"
local MBIT_S = 40

describe("a recovery from another host", function()
    local place, lab, cluster, writers, why_not
    local undone = undone_of.new()

    local test = needs.of(getfenv(), function()
        return lab, why_not
    end)

    local function down()
        cluster:mirror(0):kill()
        cluster:wait_row({ content = 0, role = "m", status = "d" }, SOON_S)
    end

    -- A full recovery that has copied something, over a slow link.
    local function copying()
        down()
        local mend = undone:once(lab:link("sdw1", "sdw2", { mbit_s = MBIT_S }))
        local command = cluster:start({ "recoverseg", "-a", "-F" })
        local progress = lab.sdw2:on_disk("/data/mirror0") .. "/moonrise.progress"
        wait.eventually("some bytes to be copied", SOON_S, function()
            local text = place_of.read(progress) or command:output()
            return (tonumber(text:match("bytes_done%D+(%d+)")) or 0) > 1000000, text
        end)
        return command, mend
    end

    local function fails(command, pattern)
        assert.are.equal(1, command:wait(NOTICED_S), command:output())
        assert.matches(pattern, command:output())
        assert.are.equal("d", cluster:mirror(0).status)
    end

    local function runs_again()
        cluster:recover()
        writers:progress(10, SOON_S)
    end

    setup(function()
        place = place_of.new()
        lab, cluster, why_not = hosts_cluster(place, NAMES, { hosts = PLACES, segments = 1,
            hba = { "host pinned pinned 10.9.0.0/16 scram-sha-256" },
            settings = { wal_receiver_timeout = "4s", wal_sender_timeout = "4s" } })
        if not lab then
            return
        end
        cluster:init()
        cluster:primary(0):sql(DATA)
        cluster:watched()
        writers = pinned.open(cluster)
    end)

    teardown(place_of.close_all)

    after_each(function()
        undone:all()
    end)

    test("goes on when the target's host has lost its power in the middle", function()
        local command = copying()
        lab.sdw2:power_off()
        local on = undone:once(function()
            lab.sdw2:power_on()
        end)
        fails(command, "sdw2")
        on()
        runs_again()
    end)

    test("ends when the link between the two is cut, though both are reached from here", function()
        local command = copying()
        local mend = undone:once(lab:cut("sdw1", "sdw2"))
        fails(command, "sdw1")
        mend()
        runs_again()
    end, "long")

    test("ends when the host where the command runs is cut off, and its agents with it", function()
        local command = copying()
        local mend = undone:once(lab:cut("cdw", "sdw2"))
        fails(command, "sdw2")
        wait.eventually("the target's agent to end", SOON_S, function()
            return lab.sdw2:run("pgrep -f '[m]oonrise agent' >/dev/null").code ~= 0
        end)
        mend()
        runs_again()
    end, "long")

    test("says that the target's disk is full, and goes on when there is room", function()
        down()
        local ballast = lab.sdw2:on_disk("/data/ballast")
        lab.sdw2:must("rm -r /data/mirror0/base")
        lab.sdw2:run("head -c 2000000000 /dev/zero >/data/ballast; truncate -s -5M /data/ballast")
        local away = undone:once(function()
            os.remove(ballast)
        end)
        local said = cluster:moonrise({ "recoverseg", "-a", "-F" })
        assert.are.equal(1, said.code, said.out)
        assert.matches("sdw2", said.err)
        assert.matches("[Ss]pace", said.err)
        assert.are.equal("d", cluster:mirror(0).status)
        away()
        runs_again()
    end, "long")

    test("costs no acknowledged row", function()
        pinned.sound(cluster, writers:prove())
        assert.are.equal(0, cluster:unwatch(SOON_S))
    end)
end)
