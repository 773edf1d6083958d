--- recoverseg and start on real servers when something they count on is lost: the WAL that a mirror
--- needs, the session with the catalog, a command that held a lease.

local checkup = require("tests.lib.checkup")
local losing = require("tests.lib.losing")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local SOON_S = wait.SOON_S
local SETTINGS = { autovacuum = "off", min_wal_size = "32MB" }

-- A statement of the catalog that waits for a lock.
local WAITS_FOR_A_LOCK = [[
local catalog = require("lib.catalog")
local home = require("lib.home")
local mr = require("moonrise")

return { summary = "spec", usage = "", description = "spec", options = {}, main = function(opts)
    local env = mr.check(home.find(opts))
    local cat = mr.check(catalog.open(env, { timeout_ms = 500, reopens = true }))
    mr.out("asks\n")
    mr.check(cat:call("epoch_seen", 1))
    mr.out("has it\n")
    return 0
end }
]]

describe("with", function()
    local place, pair, cluster

    setup(function()
        place = place_of.new()
        pair = losing.pair(place, { settings = SETTINGS, rows = 100000 })
        cluster = pair.cluster
    end)

    teardown(place_of.close_all)

    before_each(function()
        pair:heal()
    end)

    local function switch_wal(primary, times)
        for _ = 1, times do
            primary:sql("select pg_logical_emit_message(false, 'spec', 'x')")
            primary:sql("select pg_switch_wal()")
        end
        primary:sql("checkpoint")
    end

    -- The mirror is away until its primary has thrown away WAL that it needs.
    local function lose_slot()
        local primary = cluster:primary(0)
        pair:lose()
        primary:sql("alter system set max_slot_wal_keep_size = '16MB'")
        primary:sql("select pg_reload_conf()")
        wait.eventually("the slot to be lost", SOON_S, function()
            switch_wal(primary, 2)
            local status = primary:value("select wal_status from pg_replication_slots")
            return status == "lost", status
        end)
        primary:sql("alter system reset max_slot_wal_keep_size")
        primary:sql("select pg_reload_conf()")
    end

    it("a lost slot recoverseg copies, for a start could never stream", function()
        lose_slot()
        local out = pair:recovers("differential")
        assert.matches("type        differential", out, 1, true)
    end)

    it("a lost slot start leaves the mirror down, and says so", function()
        lose_slot()
        local result = cluster:moonrise({ "start", "-a" })
        assert.are.equal("d", cluster:mirror(0).status, result.out)
        assert.matches("removed WAL that it still needs", result.out .. result.err, 1, true)
        assert.matches("moonrise recoverseg", result.out .. result.err, 1, true)
    end)

    it("WAL lost behind the slot's back a recovery by start goes on as a copy", function()
        local primary = cluster:primary(0)
        pair:lose()
        switch_wal(primary, 3)
        local current = primary:value("pg_walfile_name(pg_current_wal_lsn())")
        place:must({ "sh", "-c", [[cd "$1/pg_wal" && for file in 0*; do
            [ "$file" = "$2" ] || [ "${file#*.}" != "$file" ] || rm "$file"; done]], "sh",
            primary.datadir, current })
        local out = pair:recovers("differential")
        assert.matches("type        start", out, 1, true)
        assert.matches("now the blocks that differ are copied", out, 1, true)
        assert.are.equal("differential", pair:last_recovery().type)
    end)

    local function copying()
        local run = cluster:start({ "recoverseg", "-a", "-F", "--max-rate", "20MB" })
        wait.eventually("the copy to be half made", SOON_S, function()
            return pair:half_made(), run:output()
        end)
        return run
    end

    it("its catalog's session lost in the middle recoverseg opens another one", function()
        pair:lose()
        local run = copying()
        local ended = cluster:catalog("select pg_terminate_backend(pid) as done " ..
            "from pg_stat_activity where application_name = 'moonrise catalog'")
        assert.are.equal("t", ended[1] and ended[1].done)
        assert.are.equal(0, run:wait(wait.SOON_S), run:output())
        assert.are.same({}, cluster:catalog("select * from content_lease"))
        checkup.pair(cluster, 0)
    end)

    it("its lease taken away in the middle recoverseg says so, and leaves the row", function()
        pair:lose()
        local run = copying()
        cluster:catalog("select moonrise.lease_drop(token) from content_lease")
        assert.are.equal(1, run:wait(wait.SOON_S), run:output())
        assert.matches("is not held any more", run:output(), 1, true)
        assert.are.equal("d", cluster:mirror(0).status)
    end)

    it("a lock held for long a statement of the catalog is tried again", function()
        local holder = cluster:session("moonrise")
        holder:ask("begin")
        holder:ask("select from moonrise.cluster_state for update")
        finally(function()
            holder:close()
        end)
        local file = place:write("waits.lua", WAITS_FOR_A_LOCK)
        local run = cluster:start({ "run", file })
        run:says("asks", SOON_S)
        wait.eventually("its statement to be tried again", SOON_S, function()
            local log = place_of.read(cluster:coordinator().log) or ""
            local _, times = log:gsub("canceling statement due to lock timeout", "")
            return times >= 2 or run:code(), run:output()
        end)
        holder:ask("rollback")
        assert.are.equal(0, run:wait(SOON_S), run:output())
        assert.matches("has it", run:output())
    end)

    -- What kill -9 leaves: a lease whose holder is no process any more.
    for _, command in ipairs({ "start", "stop" }) do
        it("a lease of a killed " .. command .. " the next command takes over at once", function()
            local gone = place:start({ "true" })
            gone:wait(SOON_S)
            local me = place:must({ "sh", "-c", "echo $(id -un)@$(uname -n)" }):match("%S+")
            local boot = place_of.read("/proc/sys/kernel/random/boot_id"):sub(1, 8)
            local function take(content, where)
                cluster:catalog(("select moonrise.lease_take(%d, '%s pid %d boot %s', '%s', "
                    .. "'begun', '10 minutes')"):format(content, me, gone.pid, where, command))
            end
            take(-1, boot)
            take(0, boot)
            cluster:must({ "start", "-a" })
            assert.are.same({}, cluster:catalog("select * from content_lease"))
            -- Another host of this one's name may have such a process.
            take(0, "0a0b0c0d")
            assert.matches("boot 0a0b0c0d", cluster:moonrise({ "state", "-e" }).out)
            assert.equal(1, #cluster:catalog("select * from content_lease"))
            cluster:catalog("select moonrise.lease_drop(token) from content_lease")
        end)
    end
end)
