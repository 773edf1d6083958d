--- Pairs on hosts of their own, whose links are cut and whose power goes: nobody is declared dead
--- by that who is heard of otherwise, whoever is gone is replaced, no acknowledged row is lost.

local hosts_cluster = require("tests.lib.hosts_cluster")
local needs = require("tests.lib.needs")
local pinned = require("tests.lib.pinned")
local place_of = require("tests.lib.place")
local undone_of = require("tests.lib.undone")
local wait = require("tests.lib.wait")

local SOON_S = wait.SOON_S
local PATIENCE_S, GRACE_S = 3, 4
local NAMES = { "cdw", "scdw", "sdw1", "sdw2", "sdw3", "clients" }
-- Each test that has a primary replaced takes another content.
local PLACES = {
    coordinator = "cdw", standby = "scdw",
    primary0 = "sdw1", mirror0 = "sdw2", primary1 = "sdw2", mirror1 = "sdw1",
    primary2 = "sdw1", mirror2 = "sdw2", primary3 = "sdw3", mirror3 = "sdw2",
}
local SEGMENTS = 4

-- What is done about a pair, beside telling of it.
local DEEDS = { "promote", "fence", "release", "mark", "mirror_down", "out_of_sync", "failover" }

describe("hosts apart", function()
    local place, lab, cluster, writers, why_not
    local undone = undone_of.new()

    local function cut(...)
        return undone:once(lab:cut(...))
    end

    local function deeds(since, content)
        return cluster:journal({ kind = DEEDS, content = content, since = since })
    end

    local function nothing_is_done(since, content, span_s)
        wait.always("nothing is done", span_s or 1.5 * PATIENCE_S, function()
            local done = deeds(since, content)
            return #done == 0, done[1] and done[1].text
        end)
    end

    local function told(kind, text, since, content)
        return cluster:wait_journal({ kind = kind, text = text, since = since, content = content },
            SOON_S)
    end

    -- The row of the content's primary has this dbid, which takes writes.
    local function serves(content, dbid)
        cluster:wait_row({ content = content, role = "p", dbid = dbid }, SOON_S)
        wait.eventually("its promotion", SOON_S, function()
            return cluster:primary(content):value("pg_is_in_recovery()") == "f"
        end)
    end

    local function in_sync(content)
        cluster:wait_row({ content = content, role = "m", mode = "s", status = "u" }, SOON_S)
    end

    local function goes_on()
        writers:progress(20, SOON_S)
    end

    local function dbid(role, content)
        return cluster:instance({ content = content, preferred_role = role }).dbid
    end

    local test = needs.of(getfenv(), function()
        return lab, why_not
    end)

    setup(function()
        place = place_of.new()
        lab, cluster, why_not = hosts_cluster(place, NAMES, { hosts = PLACES, segments = SEGMENTS,
            standby = true, hba = { "host pinned pinned 10.9.0.0/16 scram-sha-256" },
            -- Who has lost a connection without a word notices it in a test's time.
            settings = { wal_receiver_timeout = "4s", wal_sender_timeout = "4s" },
            watch = { interval_ms = 500, timeout_ms = 800, patience_ms = 1000 * PATIENCE_S,
                heard_ms = 1000 * PATIENCE_S, grace_ms = 1000 * GRACE_S } })
        if not lab then
            return
        end
        cluster:init()
        cluster:watched()
        writers = pinned.open(cluster, lab.clients)
    end)

    teardown(place_of.close_all)

    after_each(function()
        undone:all()
    end)

    test("servers whose ports only the watcher does not reach are left alone: people are told",
        function()
        local since = cluster:journal_end()
        local primary, mirror = cluster:primary(0), cluster:mirror(1)
        local mends = { cut("cdw", "sdw1", { port = tonumber(primary.port) }),
            cut("cdw", "sdw1", { port = tonumber(mirror.port) }) }
        told("alert", "serves on its host and its mirror hears it", since, 0)
        told("alert", "serves on its host and streams", since, 1)
        nothing_is_done(since, nil, 1.2 * GRACE_S)
        goes_on()
        for content, mend in ipairs(mends) do
            mend()
            told("state", "^in_sync", since, content - 1)
        end
    end)

    test("a host whose sshd hangs while its servers are fine: nothing is done, nothing hangs",
        function()
        local since = cluster:journal_end()
        local thaw = undone:once(lab.sdw1:freeze_sshd())
        local began = wait.now()
        local said = cluster:moonrise({ "state", "-e" })
        assert.is_true(wait.now() - began < 30, ("state took %.1f s"):format(wait.now() - began))
        assert.matches("sdw1", said.out .. said.err)
        wait.eventually("patience to be over", SOON_S, function()
            return wait.now() - began > 1.5 * PATIENCE_S
        end)
        assert.are.same({}, deeds(since))
        goes_on()
        thaw()
    end)

    test("mirrors that their primaries do not reach are let go, and taken back", function()
        local since = cluster:journal_end()
        local mend = cut("sdw1", "sdw2")
        for content = 0, 2 do
            told("release", "done", since, content)
        end
        goes_on()
        mend()
        for content = 0, 2 do
            in_sync(content)
        end
        assert.are.same({}, cluster:journal({ kind = { "promote", "fence", "mark" },
            since = since }))
    end)

    test("one way is as good as both: let go, and taken back", function()
        local since = cluster:journal_end()
        local mend = cut("sdw1", "sdw2", { one_way = true })
        told("release", "done", since, 0)
        goes_on()
        mend()
        for content = 0, 2 do
            in_sync(content)
        end
    end, "long")

    test("a primary that is cut off from the watcher only, host and all, lives on", function()
        local since = cluster:journal_end()
        local mend = cut("cdw", "sdw3", { one_way = true })
        told("decision", "wait: the mirror still hears its primary", since, 3)
        nothing_is_done(since, 3)
        goes_on()
        mend()
        told("state", "^in_sync", since, 3)
    end, "long")

    test("a primary that is killed is replaced at once, by the word of its host", function()
        local since, mirror = cluster:journal_end(), dbid("m", 0)
        cluster:primary(0):kill()
        local began = wait.now()
        serves(0, mirror)
        assert.is_true(wait.now() - began < PATIENCE_S, "that took longer than patience lasts")
        told("decision", "by its host's word", since, 0)
        goes_on()
    end)

    test("a host without power: its primaries are replaced after the patience, and are marked when"
        .. " it is back", function()
        local since, mirror, old = cluster:journal_end(), dbid("m", 3), dbid("p", 3)
        local datadir = cluster:primary(3).datadir
        lab.sdw3:power_off()
        local on = undone:once(function()
            lab.sdw3:power_on()
        end)
        serves(3, mirror)
        told("decision", "promote: neither the primary nor its host answers", since, 3)
        goes_on()
        on()
        told("mark", "done", since, 3)
        wait.eventually("pg_control to be moved aside", SOON_S, function()
            return place_of.read(datadir .. "/moonrise.control")
        end)
        cluster:wait_row({ dbid = old, status = "d", role = "m" }, SOON_S)
    end)

    test("a host that is cut off from all: its primaries are replaced, and acknowledge nothing",
        function()
        local since, mirror = cluster:journal_end(), dbid("m", 2)
        local old = cluster:primary(2)
        local mend = undone:once(lab:isolate("sdw1"))
        serves(2, mirror)
        -- Its mirrors are let go as well.
        told("release", "done", since, 1)
        goes_on()
        assert.are.same({ nil, "psql: timeout" },
            { old:try_sql("create table late ()", { timeout_s = 2 }) })
        mend()
        told("mark", "done", since, 2)
        told("fence", "done", since, 2)
        assert.is_false(old:running())
        in_sync(1)
    end)

    test("the coordinator's host, cut off from all, does nothing, and goes on when it is back",
        function()
        local since = cluster:journal_end()
        local mend = undone:once(lab:isolate("cdw"))
        cluster:primary(1):kill()
        nothing_is_done(since)
        mend()
        serves(1, dbid("m", 1))
        goes_on()
    end)

    test("the standby's host without power: the coordinator goes on once a majority knows it",
        function()
        local since = cluster:journal_end()
        lab.scdw:power_off()
        local on = undone:once(function()
            lab.scdw:power_on()
        end)
        cluster:wait_row({ content = -1, role = "m", status = "d" }, SOON_S)
        told("release", "done", since, -1)
        cluster:catalog("create table if not exists goes_on ()")
        on()
    end)

    test("are recovered from each other, and get their roles back", function()
        cluster:recover()
        goes_on()
        cluster:must({ "recoverseg", "-a", "-r" })
        cluster:wait_healthy(nil, true)
        goes_on()
    end)

    test("cost no acknowledged row, and never do two acknowledge", function()
        pinned.sound(cluster, writers:prove())
        assert.are.equal(0, cluster:unwatch(SOON_S))
    end)
end)
