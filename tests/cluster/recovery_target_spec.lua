--- recoverseg on real servers: what it makes of directories and processes that are not as they
--- should be, and of a source that has other work.

local checkup = require("tests.lib.checkup")
local losing = require("tests.lib.losing")
local pg = require("tests.lib.pg")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")
local workload = require("tests.lib.workload")

local SOON_S = wait.SOON_S
local SETTINGS = { autovacuum = "off", allow_in_place_tablespaces = "on" }

describe("recoverseg, with a target", function()
    local place, pair, cluster, target

    setup(function()
        place = place_of.new()
        pair = losing.pair(place, { segments = 1, settings = SETTINGS,
            hba = { "local replication all peer" } })
        cluster = pair.cluster
        workload.fill(cluster:primary(0))
    end)

    teardown(place_of.close_all)

    before_each(function()
        pair:heal()
        target = pair.target
    end)

    local function sh(script, ...)
        return pair:sh(script, ...)
    end

    local function lose()
        pair:lose()
    end

    local function fails(words, ...)
        return pair:fails(words, ...)
    end

    local function recovers(kind, ...)
        return pair:recovers(kind, ...)
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

    -- Runs recoverseg -F at a terminal.
    local function answered(answers)
        local line = place_of.quote(place_of.moonrise()) .. " recoverseg -F"
        return place:run({ "script", "-qec", line, "/dev/null" }, { stdin = answers,
            env = { COORDINATOR_DATA_DIRECTORY = cluster.datadir }, timeout_s = 120 })
    end

    -- In the place of the target's directory; the target's own goes.
    local function put_other(other)
        sh('rm -rf "$1" && mv "$2" "$1"', other.datadir)
    end

    it("of another cluster: refused, until somebody says that it is replaced", function()
        lose()
        put_other(pg.new(place))
        local before = place_of.read(target.datadir .. "/global/pg_control")
        for option, hint in pairs({ [""] = "-F", ["--differential"] = "-F",
            ["-F"] = "--replace-foreign" }) do
            local result = fails("belongs to another cluster", option ~= "" and option or nil)
            assert.matches(hint, result.err, 1, true)
        end
        local asked = cluster:moonrise({ "recoverseg", "-F" })
        assert.are.equal(2, asked.code)
        assert.matches("Everything in it is replaced", asked.out, 1, true)
        asked = answered("y\nn\n")
        assert.are.equal(1, asked.code)
        assert.matches("Replace everything in " .. target.datadir, asked.out, 1, true)
        assert.are.equal(before, place_of.read(target.datadir .. "/global/pg_control"))
        recovers("full", "-F", "--replace-foreign")
    end)

    it("of another cluster: replaced once both questions are answered", function()
        lose()
        put_other(pg.new(place))
        local asked = answered("y\ny\n")
        assert.are.equal(0, asked.code, asked.out)
        assert.matches("recovered by full", asked.out)
        checkup.pair(cluster, 0)
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
        pair:record_down()
        recovers("", "--differential")
        assert.is_false(place_of.alive(pid))
    end)

    it("that runs and is recorded down: stopped and brought back", function()
        pair:record_down()
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
        local run = cluster:start({ "recoverseg", "-a", "-F", "--max-rate", "5MB" })
        wait.eventually("the copy to be half made", SOON_S, function()
            return place_of.read(target.datadir .. "/moonrise.patch"), run:output()
        end)
        primary:stop()
        assert.are.equal(1, run:wait(wait.SOON_S), run:output())
        assert.matches("the backup session with the source", run:output())
        cluster:moonrise({ "start", "-a" })
        assert.is_not_nil(place_of.read(target.datadir .. "/moonrise.patch"))
        recovers("")
    end)
end)
