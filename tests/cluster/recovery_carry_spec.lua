--- recoverseg on real servers whose slots may hold back far less WAL than is written meanwhile.

local compare = require("tests.lib.compare")
local losing = require("tests.lib.losing")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local SOON_S = wait.SOON_S
local SETTINGS = { autovacuum = "off", max_slot_wal_keep_size = "64MB", max_wal_size = "48MB",
    min_wal_size = "32MB" }

-- Rows that are compared, and WAL that is not.
local WRITES = [[
insert into rows select generate_series(1, 100);
select length(pg_logical_emit_message(false, 'w', repeat('x', 300000))::text);
]]

describe("a slot that cannot hold the WAL of a copy", function()
    local place, pair, cluster, writer

    setup(function()
        place = place_of.new()
        pair = losing.pair(place, { settings = SETTINGS, rows = 200000 })
        cluster = pair.cluster
        cluster:primary(0):sql("create table rows (n int)")
    end)

    teardown(place_of.close_all)

    before_each(function()
        pair:heal()
        pair:lose()
        local primary = cluster:primary(0)
        local file = place:write("writes.sql", WRITES)
        writer = place:start({ primary.bin .. "/pgbench", "-n", "-T", "600", "-R", "60", "-L",
            "200", "-h", primary.host, "-p", tostring(primary.port), "-f", file, "postgres" })
    end)

    local function stop_writer()
        writer:kill()
        writer = nil
    end

    after_each(function()
        if writer then
            stop_writer()
        end
    end)

    local function recover()
        return cluster:start({ "recoverseg", "-a", "-F", "--max-rate", "12MB" })
    end

    local function carrying(run)
        wait.eventually("its WAL to be carried", SOON_S, function()
            return cluster:primary(0):value("select count(*) from pg_stat_replication " ..
                "where application_name like 'moonrise carry %' and state = 'streaming'") == "1",
                run:output()
        end)
    end

    local function recovered(run)
        assert.are.equal(0, run:wait(wait.SOON_S), run:output())
        assert.matches("of WAL carried", run:output(), 1, true)
        stop_writer()
        assert.are.same({}, compare.pair(cluster:primary(0), cluster:mirror(0)))
        assert.are.same({ { wal = "carried" } }, cluster:catalog("select data->>'wal' as wal " ..
            "from journal where kind = 'recovered' order by id desc limit 1"))
    end

    -- Who holds the mirror's slot, until the recovery has ended.
    local function holders(run)
        local seen = {}
        wait.eventually("the recovery to end", 90, function()
            local row = cluster:primary(0):sql("select " ..
                "coalesce(max(s.application_name), 'nobody') as holder, " ..
                "max(pg_current_wal_lsn() - restart_lsn) > 128 * 2 ^ 20 as much " ..
                "from pg_replication_slots r left join pg_stat_replication s " ..
                "on s.pid = r.active_pid")[1]
            seen[row.holder:match("^%D+")] = true
            assert.are.equal("f", row.much)
            return run:code(), run:output()
        end)
        return seen
    end

    it("is not overtaken, also by the run after one that was killed", function()
        local run = recover()
        carrying(run)
        run:kill()
        wait.eventually("its agent to be gone", SOON_S, function()
            return cluster:primary(0):value("select count(*) from pg_stat_activity " ..
                "where application_name ~ '^moonrise (carry|recover)'") == "0"
        end)
        assert.is_true(pair:half_made())
        run = recover()
        carrying(run)
        local seen = holders(run)
        recovered(run)
        -- The mirror itself, once it runs.
        seen.nobody, seen.mr_ = nil, nil
        assert.are.same({}, seen)
        place:must({ "test", "!", "-e", pair.target.datadir .. "/moonrise.wal" })
    end)
end)
