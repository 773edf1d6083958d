--- recoverseg on real servers: what it makes of directories and processes that are not as they
--- should be, and of a source that has other work.

local checkup = require("tests.lib.checkup")
local cluster_of = require("tests.lib.cluster")
local pg = require("tests.lib.pg")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")
local workload = require("tests.lib.workload")

local SOON_S = 20
local SETTINGS = { autovacuum = "off", allow_in_place_tablespaces = "on" }

describe("recoverseg, with a target", function()
    local place, cluster, target

    setup(function()
        place = place_of.new()
        cluster = cluster_of.new(place, { segments = 1, settings = SETTINGS,
            hba = { "local replication all peer" } })
        cluster:init()
        workload.fill(cluster:primary(0))
    end)

    teardown(function()
        if place then
            place:close()
        end
    end)

    -- Recorded by the catalog's own function: nobody watches here.
    local function record_down(dbid)
        cluster:catalog(([[
            begin;
            select moonrise.mirror_down(moonrise.lease_take(0, 'spec', 'spec', 'x', '1 minute'), 0,
                'spec %s');
            select moonrise.lease_drop(token) from content_lease where content = 0;
            commit]]):format(dbid))
        local primary = cluster:primary(0)
        primary:sql("alter system set synchronous_standby_names = ''")
        primary:sql("select pg_reload_conf()")
    end

    before_each(function()
        cluster:moonrise({ "start", "-a" })
        cluster:moonrise({ "recoverseg", "-a" })
        cluster:wait_healthy(60)
        target = cluster:mirror(0)
    end)

    local function sh(script, ...)
        place:must({ "sh", "-c", script, "sh", target.datadir, ... })
    end

    local function lose()
        target:kill()
        record_down(target.dbid)
    end

    local function fails(words, ...)
        local before = cluster:rows()
        local result = cluster:moonrise({ "recoverseg", "-a", ... })
        assert.are.equal(1, result.code, result.out)
        assert.matches(words, result.err)
        assert.matches(target.datadir, result.err, 1, true)
        assert.are.same(before, cluster:rows())
        return result
    end

    local function recovers(kind, ...)
        local out = cluster:must({ "recoverseg", "-a", ... })
        assert.matches("recovered by " .. kind, out)
        checkup.pair(cluster, 0)
    end

    it("whose directory is empty: full", function()
        lose()
        sh('rm -rf "$1"/*')
        fails("differential recovery is not possible", "--differential")
        recovers("full")
    end)

    it("whose directory is missing: full", function()
        lose()
        sh('rm -rf "$1"')
        recovers("full")
    end)

    it("that lacks some of its files: differential", function()
        lose()
        sh('rm -rf "$1"/base/5 "$1"/pg_wal/* "$1"/pg_xact; rm -f "$1"/global/1260')
        recovers("", "--differential")
    end)

    it("whose pg_wal is a link: it stays one", function()
        lose()
        sh('mv "$1/pg_wal" "$2" && ln -s "$2" "$1/pg_wal"', place:path("wal"))
        recovers("differential", "--differential")
        place:must({ "test", "-L", target.datadir .. "/pg_wal" })
        lose()
        recovers("full", "-F")
        place:must({ "test", "-L", target.datadir .. "/pg_wal" })
    end)

    it("whose directory is not a data directory: left alone", function()
        lose()
        sh('mv "$1" "$1.away" && mkdir -m 700 "$1" && echo precious >"$1/file"')
        finally(function()
            sh('rm -rf "$1" && mv "$1.away" "$1"')
        end)
        fails("not empty and is no data directory", "-F")
        assert.are.equal("precious\n", place_of.read(target.datadir .. "/file"))
    end)

    it("of another cluster: refused, unless everything is replaced", function()
        lose()
        local other = pg.new(place)
        sh('mv "$1" "$1.away" && mv "$2" "$1"', other.datadir)
        local result = fails("belongs to another cluster", "--differential")
        assert.matches("-F", result.err, 1, true)
        assert.is_not_nil(place_of.read(target.datadir .. "/global/pg_control"))
        local asked = cluster:moonrise({ "recoverseg", "-F" })
        assert.are.equal(2, asked.code)
        assert.matches("Everything in it is replaced", asked.out, 1, true)
        recovers("full", "-F")
        sh('rm -rf "$1.away"')
    end)

    it("whose postmaster.pid names a dead process", function()
        lose()
        assert.is_not_nil(place_of.read(target.datadir .. "/postmaster.pid"))
        recovers("differential", "--differential")
    end)

    it("whose postmaster.pid names somebody else's process: it is left alone", function()
        lose()
        local stranger = place:start({ "tail", "-f", "/dev/null" })
        sh('sed -i "1s/.*/$2/" "$1/postmaster.pid"', tostring(stranger.pid))
        recovers("differential", "--differential")
        assert.is_true(place_of.alive(stranger.pid))
        stranger:kill()
    end)

    it("that hangs and is recorded down: it is ended and brought back", function()
        local pid = target:pid()
        place_of.kill(pid, "STOP")
        record_down(target.dbid)
        recovers("", "--differential")
        assert.is_false(place_of.alive(pid))
    end)

    it("that runs and is recorded down: stopped and brought back", function()
        record_down(target.dbid)
        recovers("")
    end)

    it("whose directory cannot be written: named, with the reason", function()
        lose()
        sh('chmod -R a-w "$1"')
        finally(function()
            sh('chmod -R u+w "$1"')
        end)
        fails("[Pp]ermission denied", "--differential")
        sh('chmod -R u+w "$1"')
        recovers("differential", "--differential")
    end)

    it("while somebody else's base backup runs on the source", function()
        lose()
        local primary = cluster:primary(0)
        local backup = place:start({ primary.bin .. "/pg_basebackup", "-h", primary.host, "-p",
            tostring(primary.port), "-D", place:path("backup"), "-c", "fast", "-r", "4M",
            "-X", "none" })
        wait.eventually("the base backup to run", SOON_S, function()
            return primary:sql("select pid from pg_stat_progress_basebackup")[1], backup:output()
        end)
        recovers("differential", "--differential")
        assert.are.equal(0, backup:wait(120), backup:output())
    end)

    it("whose source is restarted in the middle: the rerun goes on", function()
        lose()
        local primary = cluster:primary(0)
        local run = cluster:start({ "recoverseg", "-a", "-F", "--max-rate", "20MB" })
        wait.eventually("the copy to be half made", SOON_S, function()
            return place_of.read(target.datadir .. "/moonrise.patch"), run:output()
        end)
        primary:stop()
        assert.are.equal(1, run:wait(60), run:output())
        assert.matches("the source's backup session", run:output())
        cluster:moonrise({ "start", "-a" })
        assert.is_not_nil(place_of.read(target.datadir .. "/moonrise.patch"))
        recovers("")
    end)
end)
