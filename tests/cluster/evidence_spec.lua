--- Nights that are not clean, on real servers: what hangs, freezes or is full is seen as what it
--- is, decided rightly at default settings, and no acknowledged row is lost by it.

local cluster_of = require("tests.lib.cluster")
local hurt = require("tests.lib.hurt")
local pg = require("tests.lib.pg")
local place_of = require("tests.lib.place")
local shop = require("tests.lib.shop")
local wait = require("tests.lib.wait")

local SOON_S = wait.SOON_S
local campaign = os.getenv("MOONRISE_CAMPAIGN")

describe("evidence", function()
    local place, cluster, watch, writers

    local function wait_told(kind, text, since)
        cluster:wait_journal({ kind = kind, content = 0, since = since, text = text }, SOON_S)
    end

    -- Hurts the primary, sees the mirror take its place and clients write to it.
    local function fails_over(harm)
        local old, mirror, since = cluster:primary(0), cluster:mirror(0), cluster:journal_end()
        local undo, began = harm(old), wait.now()
        finally(function()
            undo()
        end)
        cluster:wait_row({ dbid = mirror.dbid, role = "p" }, SOON_S)
        writers:progress(20, SOON_S)
        return wait.now() - began, old, since, undo
    end

    setup(function()
        place = place_of.new()
        cluster = cluster_of.new(place, { segments = 1, hosts = { mirror0 = "127.0.0.1" },
            hba = shop.hba,
            watch = { recovery_stall_ms = 6000, flap_count = 3, flap_window_ms = 30000 },
            settings = { max_connections = "20" } })
        cluster:init()
        watch = cluster:watched()
        writers = shop.open(cluster, 3)
    end)

    teardown(place_of.close_all)

    -- What it takes is measured by `make bench NAME=failover_hung`.
    it("of a postmaster that hangs: its sessions go on, its mirror hears that, it is ended",
        function()
        local took, old, since = fails_over(hurt.stop_postmaster)
        assert.is_true(took > 5, took)
        assert.is_false(old:running())
        wait_told("fence", "done", since)
        cluster:recover()
    end)

    it("of a server that hangs as a whole: it is ended", function()
        local took, old = fails_over(hurt.stop_tree)
        assert.is_true(took > 5, took)
        assert.is_false(old:running())
        cluster:recover()
    end)

    it("of a host that does not answer: patience, then sync alone; later it is marked", function()
        local took, _, since, thaw = fails_over(function(old)
            local thaw = hurt.stop_agent(watch, place, old.hostname)
            old:kill()
            return thaw
        end)
        assert.is_true(took > 5, took)
        wait_told("decision", "promote: neither the primary nor its host answers", since)
        assert.are.same({}, cluster:journal({ kind = "fence", content = 0, since = since }))
        assert.are.same({}, cluster:journal({ kind = "disk", content = 0, since = since }))
        thaw()
        wait_told("mark", "done", since)
        cluster:recover()
    end)

    it("of a mirror that is frozen: it seems to stream, and its primary is released", function()
        local mirror, since = cluster:mirror(0), cluster:journal_end()
        local thaw = hurt.freeze_receiver(mirror)
        finally(function()
            thaw()
        end)
        writers:progress(200, SOON_S)
        wait_told("decision", "release: commits hang and the mirror confirms nothing", since)
        wait_told("out_of_sync", "", since)
        thaw()
        cluster:wait_healthy()
    end)

    it("of replication that fails again and again: it counts as down until it was quiet", function()
        local mirror, since, thaw = cluster:mirror(0), cluster:journal_end(), nil
        finally(function()
            thaw()
        end)
        for round = 1, 3 do
            local at = cluster:journal_end()
            -- Without its startup process it asks for no other receiver.
            thaw = hurt.stop_process(mirror, "startup")
            hurt.drop_receiver(mirror)
            wait_told("state", "mirror_lost", at)
            if round < 3 then
                thaw()
                wait_told("state", "in_sync", at)
            end
        end
        wait_told("decision", "release: the mirror's replication fails again and again", since)
        wait_told("mirror_down", "", since)
        writers:progress(20, SOON_S)
        thaw()
        local primary = cluster:primary(0)
        wait.eventually("the mirror to stream", SOON_S, function()
            return primary:value("(select state from pg_stat_replication)") == "streaming"
        end)
        wait.always("it counts as down", 5, function()
            return cluster:mirror(0).status == "d"
        end)
        cluster:wait_healthy()
    end)

    -- Told at the first look, told when it is over, and nothing else is done.
    local function only_told(harm, words)
        local primary, since = cluster:primary(0), cluster:journal_end()
        local undo = harm(primary)
        finally(function()
            undo()
        end)
        cluster:moonrise({ "watch", "--once" })
        wait_told("sessions", "lets no new session in: .*" .. words, since)
        wait_told("alert", "lets no new session in", since)
        undo()
        wait_told("sessions", "lets new sessions in again", since)
        cluster:wait_healthy()
        assert.are.equal(primary.dbid, cluster:primary(0).dbid)
        assert.are.same({}, cluster:journal({ kind = "state", content = 0, since = since }))
    end

    it("of a primary with too many clients is none against it", function()
        only_told(hurt.exhaust_connections, "too many clients")
    end)

    it("of a primary that may not start processes is none against it", function()
        only_told(hurt.forbid_forks, "error response")
    end)

    it("of a primary without memory is none against it", function()
        only_told(function(primary)
            return hurt.forbid_memory(primary, 300000)
        end, "out of memory")
    end)

    it("of a lost mirror, whose primary is full of commits that wait: it is released", function()
        local primary, mirror, since = cluster:primary(0), cluster:mirror(0), cluster:journal_end()
        mirror:kill("STOP")
        local undo = hurt.exhaust_connections(primary)
        finally(function()
            undo()
        end)
        mirror:kill()
        writers:progress(50, SOON_S)
        wait_told("mirror_down", "", since)
        undo()
        cluster:recover()
    end)

    it("of another server at a dead primary's port: the host's word goes before it", function()
        local old, mirror = cluster:primary(0), cluster:mirror(0)
        watch:kill("STOP")
        old:kill()
        local stranger = pg.new(place, { name = "stranger",
            hba = { "host all all 127.0.0.1/32 md5" },
            settings = { port = old.port, listen_addresses = "127.0.0.1" } })
        stranger.port = tonumber(old.port)
        stranger:start()
        watch:kill("CONT")
        cluster:wait_row({ dbid = mirror.dbid, role = "p" }, SOON_S)
        stranger:stop()
        cluster:recover()
    end)

    -- The startup process gets a few milliseconds of every tenth of a second, then none.
    it("of a crash recovery: it has its time while it advances, and no longer", function()
        if not campaign then
            return pending("only in a campaign")
        end
        local old, mirror, since = cluster:primary(0), cluster:mirror(0), cluster:journal_end()
        local session = old:session()
        old:sql("checkpoint")
        old:sql("create table much as select i, repeat('x', 500) from generate_series(1, 300000) i",
            { timeout_s = 60 })
        place_of.kill(tonumber((session:ask("select pg_backend_pid()"))), "KILL")
        local startup = wait.eventually("the startup process", SOON_S, function()
            return hurt.children(old:pid(), "startup")[1]
        end)
        local thaw = hurt.freeze({ startup })
        finally(function()
            thaw()
        end)
        wait.always("the primary stays", 15, function()
            thaw()
            thaw = hurt.freeze({ startup })
            return cluster:primary(0).dbid == old.dbid
        end)
        assert.are.same({}, cluster:journal({ kind = "promote", content = 0, since = since }))
        cluster:wait_row({ dbid = mirror.dbid, role = "p" }, SOON_S)
        wait_told("decision", "crash recovery does not advance", since)
        writers:progress(20, SOON_S)
        cluster:recover()
    end)

    it("costs no acknowledged row, and brings none that was refused", function()
        shop.sound(writers:prove())
    end)
end)
