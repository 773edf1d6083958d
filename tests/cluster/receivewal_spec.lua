--- receivewal against stock servers: pg_receivewal's options, files and exit codes, and what it
--- does when it is killed, when the server goes away, is replaced, or the disk is full.

local dice_of = require("tests.lib.dice")
local namespace = require("tests.lib.namespace")
local pg = require("tests.lib.pg")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local SOON_S = wait.SOON_S
local CAMPAIGN = os.getenv("MOONRISE_CAMPAIGN")
local KILLS = CAMPAIGN and 200 or 12
-- Small segments: many of them with little WAL.
local INITDB = { "--wal-segsize=1" }
local SETTINGS = { archive_mode = "on", autovacuum = "off", wal_keep_size = "512MB",
    max_wal_senders = 8, checkpoint_timeout = "1h", max_wal_size = "1GB" }

describe("receivewal", function()
    local place, server, archive, alone, why_not
    local made = 0

    setup(function()
        alone, why_not = namespace.enter()
        place = place_of.new()
        archive = place:path("archive")
        place:must({ "mkdir", archive })
        local settings = setmetatable({ archive_command = ("cp %%p %s/%%f"):format(archive) },
            { __index = SETTINGS })
        for name, value in pairs(SETTINGS) do
            settings[name] = value
        end
        server = pg.new(place, { initdb = INITDB, settings = settings })
        server:start()
        server:sql("create table t (n int, x text)")
    end)

    teardown(place_of.close_all)

    -- An empty directory to receive into.
    local function new_dir()
        made = made + 1
        local dir = place:path("wal" .. made)
        place:must({ "mkdir", "-m", "700", dir })
        return dir
    end

    local function argv(from, ...)
        return { place_of.moonrise(), "receivewal", "-h", from.host, "-p", tostring(from.port),
            ... }
    end

    local function run(...)
        return place:run(argv(server, ...), { timeout_s = SOON_S })
    end

    local function must(...)
        return place:must(argv(server, ...), { timeout_s = SOON_S })
    end

    local function files(dir)
        return place:must({ "ls", dir })
    end

    local function write(on, rows)
        on:sql(("insert into t select i, repeat('x', 100) from generate_series(1, %d) i"):format(
            rows or 1))
    end

    -- Ends a segment and begins the next: the position of its beginning, and the one that ended.
    local function switch(on)
        write(on)
        local ended = on:value("pg_walfile_name(pg_switch_wal())")
        local lsn = on:value("pg_current_wal_insert_lsn()")
        write(on)
        return lsn, ended
    end

    -- Every whole segment of a directory is what the server wrote, byte by byte.
    local function same_as(dir, other)
        return tonumber(place:must({ "sh", "-c", [[
            cd "$1" && n=0
            for f in *; do
                case $f in
                    *.partial|*.history) continue;;
                    *.gz) zcat "$f" | cmp - "$2/${f%.gz}" || exit 1;;
                    *) cmp "$f" "$2/$f" || exit 1;;
                esac
                n=$((n + 1))
            done
            echo $n]], "sh", dir, other }))
    end

    -- Follows in the background, until it streams.
    local function follow(from, dir, ...)
        local program = place:start(argv(from, "-D", dir, "-v", ...))
        program:says("starting log streaming", SOON_S)
        return program
    end

    local function received(dir, name)
        wait.eventually(name .. " to be received", SOON_S, function()
            return files(dir):find(name .. "\n", 1, true)
        end)
    end

    -- It has received all that the server has, at least so many segments, and ends when it is told.
    local function has_all(program, dir, segments)
        local _, last = switch(server)
        received(dir, last)
        program:kill()
        assert.are.equal(0, program:wait(SOON_S), program:output())
        assert.is_true(same_as(dir, server.datadir .. "/pg_wal") >= segments)
    end

    it("says what is wrong with its options, and does nothing", function()
        local dir = new_dir()
        for _, case in ipairs({
            { "which directory", {} },
            { "cannot be combined", { "-D", dir, "-S", "s", "--create-slot", "--drop-slot" } },
            { "wants the slot's name", { "-D", dir, "--create-slot" } },
            { "cannot be combined", { "-D", dir, "--synchronous", "--no-sync" } },
            { "no compression has no level", { "-D", dir, "-Z", "none:1" } },
            { "from 1 to 9", { "-D", dir, "-Z", "gzip:12" } },
            { "the methods are", { "-D", dir, "-Z", "zstd" } },
            { "asks for no password", { "-D", dir, "-W" } },
            { "for everybody to read", { "-D", dir, "-d", "password=x" } },
            { "a mirror's slot", { "-D", dir, "-S", "mr_slot_3" } },
            { "a position such as", { "-D", dir, "-E", "7" } },
            { "cannot be combined", { "-D", dir, "--content", "0" } },
            { "unexpected argument", { "-D", dir, "x" } },
            { "no plan", { "-D", dir, "--dry-run" } },
        }) do
            local result = run(unpack(case[2]))
            assert.are.equal(2, result.code, result.err)
            assert.matches(case[1], result.err, 1, true)
        end
        assert.are.equal("", files(dir))
        assert.matches("^moonrise receivewal ", must("-V"))
    end)

    it("makes and drops slots", function()
        must("-S", "made", "--create-slot")
        local row = server:sql("select slot_type, restart_lsn from pg_replication_slots")[1]
        assert.are.same({ slot_type = "physical" }, row)
        assert.matches("already exists", run("-S", "made", "--create-slot").err)
        must("-S", "made", "--create-slot", "--if-not-exists")
        must("-S", "made", "--drop-slot")
        assert.are.equal("0", server:value("select count(*) from pg_replication_slots"))
        assert.are.equal(1, run("-S", "made", "--drop-slot").code)
    end)

    it("ends behind a position, and goes on there, in each form of a segment", function()
        local dir = new_dir()
        for _, form in ipairs({ { ".partial", "--synchronous" }, { ".gz.partial", "-Z", "gzip:1" },
                                { ".lz4.partial", "-Z", "lz4" }, { ".partial" } }) do
            local lsn = switch(server)
            local half = server:value(("pg_walfile_name('%s'::pg_lsn + 1)"):format(lsn))
            must("-D", dir, "-n", "-E", lsn, unpack(form, 2))
            -- One is half there, and none of those before it any more.
            local partial = files(dir):match("[^\n]*partial")
            assert.are.equal(half .. form[1], partial)
        end
        assert.matches("%.gz\n", files(dir))
        assert.matches("%.lz4\n", files(dir))
        place:must({ "sh", "-c", 'rm "$1"/*.lz4', "sh", dir })
        assert.is_true(same_as(dir, server.datadir .. "/pg_wal") >= 2)
        assert.are.equal("", place:must({ "find", dir, "-type", "f", "!", "-perm", "600" }))
    end)

    it("begins where the slot stands, and wants it there", function()
        local dir = new_dir()
        server:sql("checkpoint")
        server:sql("select pg_create_physical_replication_slot('kept', true)")
        local first = server:value("select pg_walfile_name(restart_lsn) from pg_replication_slots")
        local lsn = switch(server)
        local result = run("-D", dir, "-S", "nobodys", "-n", "-E", lsn)
        assert.are.equal(1, result.code)
        assert.matches('slot "nobodys" does not exist', result.err, 1, true)
        must("-D", dir, "-S", "kept", "-n", "--no-sync", "-E", lsn)
        assert.matches(first .. "\n", files(dir))
        assert.are.equal("t", server:value(("select restart_lsn > '%s' from " ..
            "pg_replication_slots"):format(lsn)))
        server:sql("select pg_drop_replication_slot('kept')")
    end)

    it("does not mix systems", function()
        -- Of another template: copies of one are one system.
        local other = pg.new(place, { initdb = { "--wal-segsize=1", "--no-instructions" },
            settings = SETTINGS })
        local dir = new_dir()
        must("-D", dir, "-n", "-E", (switch(server)))
        local before = files(dir)
        other:start()
        finally(function()
            other:stop("immediate")
        end)
        local result = place:run(argv(other, "-D", dir))
        assert.are.equal(1, result.code)
        assert.matches("holds WAL of system %d+, and the server is system %d+", result.err)
        assert.are.equal(before, files(dir))
    end)

    it("ends tidily when it is interrupted", function()
        for _, signal in ipairs({ "INT", "TERM" }) do
            local dir = new_dir()
            local program = follow(server, dir)
            write(server)
            program:kill(signal)
            assert.are.equal(0, program:wait(SOON_S), program:output())
            assert.matches("received interrupt signal", program:output(), 1, true)
        end
    end)

    it("outlives a restart of the server, unless it is not to", function()
        local dir, other = new_dir(), new_dir()
        local program, once = follow(server, dir), follow(server, other, "-n")
        server:stop()
        assert.are.equal(1, once:wait(SOON_S))
        assert.matches("shutting down", once:output(), 1, true)
        program:says("disconnected; waiting", SOON_S)
        server:start()
        has_all(program, dir, 1)
    end)

    it("killed at any point, has in the end what the server archived", function()
        local dice = dice_of.new()
        local dir = new_dir()
        server:sql("select pg_create_physical_replication_slot('killed', true)")
        local options = { "-D", dir, "-S", "killed", "-n" }
        for i = 1, KILLS do
            local compressed = i % 3 == 0 and { "-Z", "gzip:1" } or {}
            local program = place:start(argv(server, options[1], options[2], options[3],
                options[4], options[5], unpack(compressed)))
            write(server, 1000 + math.floor(dice:number(20000)))
            program:kill("KILL")
            program:wait(SOON_S)
            wait.eventually("the slot to be free", SOON_S, function()
                return server:value("select count(*) from pg_replication_slots where active") == "0"
            end)
        end
        local lsn, last = switch(server)
        must("-D", dir, "-S", "killed", "-n", "-E", lsn)
        wait.eventually("the server's archive", SOON_S, function()
            return place_of.read(archive .. "/" .. last)
        end)
        local count = same_as(dir, archive)
        assert.is_true(count >= KILLS / 2, "seed " .. dice.seed)
        -- None is missing between the first and the last.
        local first = files(dir):match("^%x+")
        assert.are.equal(tonumber(last:sub(-4), 16) - tonumber(first:sub(-4), 16) + 1, count,
            "seed " .. dice.seed)
        server:sql("select pg_drop_replication_slot('killed')")
    end)

    it("follows a standby over its promotion", function()
        local standby = pg.standby(server, { slot = "standby" })
        standby:start()
        finally(function()
            standby:stop("immediate")
            server:sql("select pg_drop_replication_slot('standby')")
        end)
        local dir, late = new_dir(), new_dir()
        local lsn = switch(server)
        standby:catch_up(server)
        -- One that was there before, and comes again when everything is over.
        place:must(argv(standby, "-D", late, "-n", "-E", lsn))
        local program = follow(standby, dir)
        write(server, 20000)
        standby:catch_up(server)
        standby:sql("select pg_promote()")
        program:says("switched to timeline 2", SOON_S)
        local last, name = switch(standby)
        received(dir, name)
        program:kill()
        assert.are.equal(0, program:wait(SOON_S), program:output())
        place:must(argv(standby, "-D", late, "-n", "-E", last))
        for _, each in ipairs({ dir, late }) do
            assert.matches("00000002.history\n", files(each), 1, true)
            assert.is_true(same_as(each, standby.datadir .. "/pg_wal") >= 2)
            assert.matches(name, files(each), 1, true)
            -- The old timeline's last one stays as it was.
            assert.matches("0000000100000000000000%x%x%.partial\n", files(each))
        end
        -- What was received of the new timeline is none of the old server's.
        local result = run("-D", dir, "-n")
        assert.are.equal(1, result.code)
        assert.matches("timeline 2, and the server is on timeline 1", result.err, 1, true)
    end)

    it("waits for room on a full disk", function()
        if not alone then
            return pending(why_not)
        end
        local dir = new_dir()
        namespace.tmpfs(dir, "3m")
        finally(function()
            namespace.unmount(dir)
        end)
        local once = place:start(argv(server, "-D", dir, "-n"))
        local program
        write(server, 40000)
        assert.are.equal(1, once:wait(SOON_S))
        assert.matches("No space left on device", once:output(), 1, true)
        program = follow(server, dir)
        program:says("No space left on device", SOON_S)
        namespace.tmpfs(dir, "40m", true)
        has_all(program, dir, 4)
    end)
end)
