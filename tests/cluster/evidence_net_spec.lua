--- Nights when it is not the servers that fail, but what is between them: silence on one way or
--- another, names that are not known any more or lead elsewhere. Nobody is declared dead by that
--- who is heard of otherwise, and no acknowledged row is lost.

local cluster_of = require("tests.lib.cluster")
local hurt = require("tests.lib.hurt")
local namespace = require("tests.lib.namespace")
local network = require("tests.lib.network")
local needs = require("tests.lib.needs")
local pinned = require("tests.lib.pinned")
local place_of = require("tests.lib.place")
local undone_of = require("tests.lib.undone")
local wait = require("tests.lib.wait")

local SOON_S = wait.SOON_S
local PATIENCE_S = 4
local COORDINATOR, PRIMARY, MIRROR = network.address(1), network.address(2), network.address(3)
local PRIMARY_DBID, MIRROR_DBID = "2", "3"
local NAMES = { ["one.test"] = PRIMARY, ["two.test"] = MIRROR }

-- What is done about a pair, beside telling of it.
local DEEDS = "'promote', 'fence', 'release', 'mark', 'mirror_down', 'out_of_sync', 'failover'"

describe("evidence, of a network", function()
    local place, cluster, watch, writers, made, why_not
    local undone = undone_of.new()

    local function rows(kinds, since)
        return cluster:catalog(([[select id, kind, dbid, text from journal where kind in (%s)
            and content = 0 and id > %d order by id]]):format(kinds, since))
    end

    local function last_id()
        return tonumber(cluster:catalog("select coalesce(max(id), 0) as id from journal")[1].id)
    end

    local function wait_journal(kind, pattern, since)
        return wait.eventually(("a row %s: %s"):format(kind, pattern), SOON_S, function()
            for _, row in ipairs(rows("'" .. kind .. "'", since)) do
                if row.text:match(pattern) then
                    return row
                end
            end
            return nil, watch:output()
        end)
    end

    local function begin_watching()
        watch = network.on("watcher", function()
            return cluster:watch()
        end)
        watch:says("watching", SOON_S)
    end

    local function stop_watching()
        watch:kill("TERM")
        watch:wait(SOON_S)
    end

    -- For longer than patience lasts nothing is done about the pair.
    local function nothing_is_done(since, span_s)
        wait.always("nothing is done", span_s or 1.25 * PATIENCE_S, function()
            local done = rows(DEEDS, since)
            return #done == 0, done[1] and done[1].text
        end)
    end

    local function cut(host, address)
        return undone:once(network.cut(host, address))
    end

    local function names(addresses)
        network.names(addresses)
        return undone:once(function()
            network.names(NAMES)
        end)
    end

    -- Its agent hangs, and so does each that is started anew: the host does not answer.
    local function silence(host)
        local deaf = place:write("deaf", "#!/bin/sh\nexec tail -f /dev/null\n")
        place:must({ "chmod", "+x", deaf })
        namespace.bind(deaf, place_of.moonrise())
        local thaw = hurt.stop_agent(watch, place, host)
        return undone:once(function()
            namespace.unmount(place_of.moonrise())
            thaw()
        end)
    end

    -- The watcher sees it as it should be again, and clients have never been turned away.
    local function healed(since)
        wait_journal("state", "^in_sync", since)
        writers:progress(10, SOON_S)
    end

    -- The watcher does not hear the primary for a moment, less than its patience.
    local function falls_silent()
        local at, began = last_id(), wait.now()
        local mend = cut("watcher", PRIMARY)
        wait_journal("state", "^primary_lost", at)
        mend()
        return wait.now() - began, at
    end

    local test = needs.of(getfenv(), function()
        return made, why_not
    end)

    setup(function()
        place = place_of.new()
        made, why_not = network.enter(place)
        if not made then
            return
        end
        network.names(NAMES)
        cluster = cluster_of.new(place, { segments = 1, port = place_of.free_port(),
            hosts = { primary0 = "127.0.0.1", mirror0 = "::1" },
            addresses = { coordinator = COORDINATOR, primary0 = "one.test", mirror0 = "two.test" },
            hba = { ("host all moonrise %s/32 scram-sha-256"):format(network.from("watcher")),
                ("host pinned pinned %s/32 scram-sha-256"):format(network.from("clients")) },
            -- The mirror asks a silent primary for a sign of life after half of it.
            settings = { wal_receiver_timeout = "4s" },
            watch = { interval_ms = 500, timeout_ms = 800, patience_ms = 1000 * PATIENCE_S,
                heard_ms = 1000 * PATIENCE_S, grace_ms = 1000 * PATIENCE_S,
                check_ms = 1000 * PATIENCE_S } })
        cluster:init()
        begin_watching()
        writers = network.on("clients", function()
            return pinned.open(cluster)
        end)
        cluster:wait_healthy()
    end)

    teardown(place_of.close_all)

    after_each(function()
        undone:all()
    end)

    test("that knows no name of theirs: told once, and nothing is done", function()
        local since = last_id()
        names({})
        -- One that watches already goes on with the addresses that it has.
        local _, at = falls_silent()
        healed(at)
        stop_watching()
        begin_watching()
        wait_journal("alert", "the primary's address is a name that nobody knows here", since)
        nothing_is_done(since)
        network.names({ ["one.test"] = PRIMARY })
        wait_journal("alert", "the mirror's address is a name .* mend the hosts file", since)
        nothing_is_done(since, 1)
        assert.are.equal(2, #rows("'alert'", since))
        at = last_id()
        network.names(NAMES)
        healed(at)
    end)

    test("whose names lead elsewhere: told, nothing is done, and found when they are right again",
        function()
        local since = last_id()
        local right = names({ ["one.test"] = MIRROR, ["two.test"] = MIRROR })
        falls_silent()
        wait_journal("alert", "dbid 2 is the catalog's primary and is in recovery", since)
        network.names({ ["one.test"] = COORDINATOR, ["two.test"] = MIRROR })
        wait_journal("alert", "another database system answers at the primary's address", since)
        right()
        healed(since)
        assert.are.same({}, rows(DEEDS, since))
    end)

    test("that cuts the watcher off from both: nobody is ended, nor when it hears them again",
        function()
        local since = last_id()
        local mend_primary, mend_mirror = cut("watcher", PRIMARY), cut("watcher", MIRROR)
        wait_journal("refused", "the mirror has not answered since the primary was lost", since)
        writers:progress(10, SOON_S)
        local at = last_id()
        mend_mirror()
        wait_journal("decision", "serves on its host and its mirror hears it", at)
        mend_primary()
        healed(at)
        assert.are.same({}, rows(DEEDS, since))
    end)

    test("that falls silent again and again, never for long: nothing is done, little is told",
        function()
        local since, times, silent_s = last_id(), 0, 0
        repeat
            local took, at = falls_silent()
            healed(at)
            silent_s, times = silent_s + took, times + 1
        until silent_s > 1.1 * PATIENCE_S
        assert.are.same({}, rows(DEEDS, since))
        -- That it was lost, that it is waited for, that it is back.
        local told = #cluster:catalog("select from journal where id > " .. since)
        assert.is_true(told <= 4 * times, ("%d rows, %d times"):format(told, times))
    end, "long")

    test("of servers that are slow in all they do, as on a slow disk: nothing is done", function()
        local since, pair = last_id(), { cluster:primary(0), cluster:mirror(0) }
        local thaw, turn_at = {}, wait.now()
        local function thaw_all()
            for _, fn in ipairs(thaw) do
                fn()
            end
            thaw = {}
        end
        undone:once(thaw_all)
        -- They have a fifth of the time, in small pieces.
        wait.always("the watcher lives", 3 * PATIENCE_S, function()
            if wait.now() >= turn_at then
                local frozen = #thaw > 0
                thaw_all()
                for _, server in ipairs(not frozen and pair or {}) do
                    table.insert(thaw, hurt.stop_tree(server))
                end
                turn_at = wait.now() + (frozen and 0.05 or 0.2)
            end
            return not watch:code()
        end)
        thaw_all()
        writers:progress(10, SOON_S)
        assert.are.same({}, rows(DEEDS, since))
    end, "long")

    test("that cuts the mirror off from its primary: it is released, and armed again", function()
        local since = last_id()
        local mend = cut("servers", PRIMARY)
        wait_journal("decision", "release: commits hang and the mirror confirms nothing", since)
        wait_journal("release", "done", since)
        writers:progress(10, SOON_S)
        assert.are.same({}, rows("'promote', 'fence', 'failover'", since))
        assert.are.equal("n", cluster:primary(0).mode)
        mend()
        cluster:wait_healthy()
        assert.are.equal(PRIMARY_DBID, cluster:primary(0).dbid)
    end)

    test("that cuts an idle primary off: nothing while its mirror hears it, then it is replaced "
        .. "and acknowledges nothing", function()
        local since, old = last_id(), cluster:primary(0)
        local answer = silence(old.hostname)
        cut("clients", PRIMARY)
        cut("watcher", PRIMARY)
        wait_journal("decision", "wait: the mirror still hears its primary", since)
        nothing_is_done(since)
        cut("servers", PRIMARY)
        cluster:wait_row({ dbid = MIRROR_DBID, role = "p" }, SOON_S)
        wait_journal("decision", "promote: neither the primary nor its host answers", since)
        writers:progress(10, SOON_S)
        assert.are.same({}, rows("'fence', 'mark'", since))
        -- It lives, and who is near to it can ask for a commit.
        local rows_of_it, said = old:try_sql("create table late ()", { timeout_s = 2 })
        assert.are.same({ nil, "psql: timeout" }, { rows_of_it, said })
        answer()
        wait_journal("mark", "done", since)
        wait_journal("fence", "done", since)
        assert.is_false(old:running())
    end)

    test("costs no acknowledged row, and never do two acknowledge", function()
        pinned.sound(cluster, writers:prove())
    end)

    -- Both names lead to one of the two, and the watcher does not hear the other one for a moment.
    -- Writers, who tell servers by their names, would be misled: there are none any more.
    local function both_lead_to(server, other)
        local address = { [PRIMARY_DBID] = PRIMARY, [MIRROR_DBID] = MIRROR }
        local there = address[server.dbid]
        local since = last_id()
        local right = names({ ["one.test"] = there, ["two.test"] = there })
        local mend = cut("watcher", address[other.dbid])
        return since, right, function(kind)
            wait_journal(kind, "another server answers at its address", since)
            mend()
        end
    end

    test("in which a mirror's name leads to its primary: it is not ended, and taken up again",
        function()
        cluster:recover()
        local since, right, told = both_lead_to(cluster:primary(0), cluster:mirror(0))
        told("mirror_down")
        wait.always("nobody is ended", PATIENCE_S / 2, function()
            local done = rows("'promote', 'fence', 'mark'", since)
            return #done == 0, done[1] and done[1].text
        end)
        right()
        cluster:wait_healthy()
        assert.are.same({}, rows("'promote', 'fence', 'mark'", since))
    end)

    test("in which a primary's name leads to its mirror: that is promoted once its host says that "
        .. "it is stopped", function()
        local old = cluster:primary(0)
        local since, _, told = both_lead_to(cluster:mirror(0), old)
        told("alert")
        old:kill()
        wait_journal("failover", "is the primary", since)
    end, "long")
end)
