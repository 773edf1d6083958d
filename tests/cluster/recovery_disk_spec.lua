--- recoverseg on real servers: disks that are full or read-only, and what a full recovery that was
--- interrupted has still to write.

local losing = require("tests.lib.losing")
local namespace = require("tests.lib.namespace")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")
local workload = require("tests.lib.workload")

local SOON_S = wait.SOON_S
local MB = 2 ^ 20
local SETTINGS = { autovacuum = "off", allow_in_place_tablespaces = "on" }

describe("recoverseg, onto a disk", function()
    local place, pair, cluster, alone, why_not

    setup(function()
        alone, why_not = namespace.enter()
        place = place_of.new()
        pair = losing.pair(place, { segments = 1, settings = SETTINGS })
        cluster = pair.cluster
        workload.fill(cluster:primary(0))
    end)

    teardown(place_of.close_all)

    before_each(function()
        pair:heal()
    end)

    local function cannot_be_started()
        assert.is_true(pair:half_made())
        os.remove(place:path("anyway.log")) -- of the time before
        local started, said = workload.starts_anyway(pair.target)
        assert.is_false(started, said)
        assert.matches("could not find the database system", said, 1, true)
    end

    local function lacks_room(option)
        local result = pair:fails("No space left on device", option)
        assert.matches("make room there and run it again", result.err, 1, true)
        cannot_be_started()
    end

    local function used_mb(dir)
        return tonumber(place:must({ "df", "--output=used", "-BM", dir }):match("(%d+)M"))
    end

    it("that is full in the middle: says so, and goes on when there is room", function()
        if not alone then
            return pending(why_not)
        end
        local dir = pair.target.datadir
        pair:lose()
        pair:sh('rm -rf "$1" && mkdir -m 700 "$1"')
        namespace.tmpfs(dir, "40m")
        finally(function()
            pair:sh('head -n 1 "$1/postmaster.pid" | xargs -r kill -QUIT; true')
            namespace.unmount(dir)
        end)
        lacks_room("-F")
        namespace.tmpfs(dir, "400m", true)
        pair:recovers("differential")
        local made = pair:last_recovery()
        assert.is_true(tonumber(made.bytes_written) < tonumber(made.bytes_done) - 20 * MB)
        pair:lose()
        cluster:primary(0):sql("create table more as select i, repeat('x', 900) from " ..
            "generate_series(1, 40000) i; checkpoint")
        pair:sh('rm -f "$1"/pg_wal/0*') -- what is deleted first makes no room then
        namespace.tmpfs(dir, used_mb(dir) + 8 .. "m", true)
        lacks_room("--differential")
        namespace.tmpfs(dir, "400m", true)
        pair:recovers("differential")
        -- There is room for the copy, and not for the WAL after it.
        pair:lose()
        pair:sh('rm -f "$1"/pg_wal/0*')
        namespace.tmpfs(dir, used_mb(dir) + 8 .. "m", true)
        local result = pair:fails("having no room for a segment of WAL", "--differential")
        assert.matches("make room there and run it again", result.err, 1, true)
        namespace.tmpfs(dir, "400m", true)
        pair:heal()
        pair:lose()
    end)

    it("that is read-only: says so, and has changed nothing", function()
        if not alone then
            return pending(why_not)
        end
        pair:lose()
        namespace.read_only(pair.target.datadir)
        pair:fails("Read%-only file system", "--differential")
        pair:fails("Read%-only file system", "-F")
        namespace.unmount(pair.target.datadir)
        assert.is_false(pair:half_made())
        assert.is_not_nil(place_of.read(pair.target.datadir .. "/global/pg_control"))
        pair:recovers("start")
    end)

    local function bytes_done()
        local text = place_of.read(pair.target.datadir .. "/moonrise.progress") or ""
        return tonumber(text:match("bytes_done = (%d+)")) or 0
    end

    -- A full recovery into an empty directory, killed when 30 MB of it were done.
    local function begin_and_kill()
        pair:lose()
        pair:sh('rm -rf "$1"')
        local run = cluster:start({ "recoverseg", "-a", "-F", "--max-rate", "20MB" })
        wait.eventually("a good part of it to be copied", SOON_S, function()
            return bytes_done() > 30 * MB, run:output()
        end)
        run:kill("KILL")
        run:wait(SOON_S)
        cannot_be_started()
    end

    it("where a full recovery was interrupted: what is right is not written again", function()
        begin_and_kill()
        pair:recovers("differential")
        local rest = pair:last_recovery()
        assert.is_true(tonumber(rest.bytes_written) < tonumber(rest.bytes_done) - 25 * MB)
        begin_and_kill()
        pair:recovers("full", "-F")
        rest = pair:last_recovery()
        assert.are.equal("true", rest.resumed)
        assert.is_true(tonumber(rest.bytes_written) < tonumber(rest.bytes_done) - 25 * MB)
        -- One that nobody interrupted writes all.
        pair:lose()
        pair:recovers("full", "-F")
        rest = pair:last_recovery()
        assert.are.equal("false", rest.resumed)
        assert.is_true(tonumber(rest.bytes_written) > 0.95 * tonumber(rest.bytes_done))
    end)
end)
