--- Failover where roles have just changed, or were changed behind moonrise's back, on real servers.

local cluster_of = require("tests.lib.cluster")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local SOON_S = wait.SOON_S

describe("failover and roles", function()
    local place, cluster, watch

    local function writes(server, deadline_s)
        server:wait_sql("insert into ledger values (default)", deadline_s or SOON_S, function()
            return watch:output()
        end)
    end

    local function fail_over(content)
        local mirror = cluster:mirror(content)
        cluster:primary(content):kill()
        writes(mirror, 30)
        cluster:wait_row({ dbid = mirror.dbid, role = "p" }, SOON_S)
        return mirror
    end

    setup(function()
        place = place_of.new()
        cluster = cluster_of.new(place, { segments = 2 })
        cluster:init()
        for content = 0, 1 do
            cluster:primary(content):sql("create table ledger (i serial)")
        end
        watch = cluster:watched()
    end)

    teardown(place_of.close_all)

    before_each(function()
        cluster:mend()
    end)

    it("replaces a primary that is killed right after a handover", function()
        fail_over(0)
        cluster:recover()
        local since = cluster:journal_end()
        local heir = cluster:primary(0)
        cluster:must({ "recoverseg", "-a", "-r" })
        cluster:wait_healthy()
        cluster:primary(0):kill()
        writes(heir, 30)
        cluster:wait_row({ dbid = heir.dbid, role = "p" }, SOON_S)
        for _, row in ipairs(cluster:journal({ kind = { "refused", "double_fault" }, content = 0,
            since = since })) do
            -- On a busy machine a mirror may answer later than it should: that is told, and waited.
            assert.matches("the mirror has not answered since the primary was lost", row.text)
        end
        cluster:recover()
    end)

    it("tells nothing of a handover but that it was one", function()
        if cluster:primary(0).preferred_role == "p" then
            fail_over(0)
            cluster:recover()
        end
        local since = cluster:journal_end()
        cluster:must({ "recoverseg", "-a", "-r" })
        cluster:wait_healthy()
        -- The watcher has looked at it since, and taken it as it is.
        local at = cluster:journal_end()
        cluster:mirror(1):kill()
        cluster:wait_journal({ kind = "release", content = 1, since = at }, wait.SOON_S)
        local told = {}
        for _, row in ipairs(cluster:journal({ kind = { "state", "decision", "double_fault",
            "refused", "alert", "failed", "fault" }, content = 0, since = since })) do
            local calm = { leased = true, unseen = true, catching_up = true, in_sync = true }
            if row.kind ~= "state" or not calm[row.text:match("^[%w_]+")] then
                told[#told + 1] = row.kind .. " " .. row.text
            end
        end
        assert.are.same({}, told)
        cluster:recover()
    end)

    it("ends a mirror that somebody has promoted before its primary is released", function()
        local primary, mirror, since = cluster:primary(0), cluster:mirror(0), cluster:journal_end()
        local session = primary:session()
        mirror:sql("select pg_promote(true)")
        -- From here on a commit on the primary waits for a mirror that is none any more, until it
        -- is released. Then nothing is acknowledged by the other one.
        session:ask("insert into ledger values (default)")
        assert.is_nil((mirror:try_sql("insert into ledger values (default)", { timeout_s = 5 })))
        session:close()
        local rows = cluster:journal({ kind = { "mirror_down", "mark", "release" }, content = 0,
            since = since })
        assert.are.same({ "mirror_down", "mark" }, { rows[1].kind, rows[2].kind })
        cluster:wait_journal({ kind = "fence", content = 0, since = since }, wait.SOON_S)
        assert.is_false(mirror:running())
        assert.has_error(function() mirror:start({ timeout_s = 5 }) end)
        writes(primary)
        cluster:wait_row({ dbid = mirror.dbid, role = "m", status = "d" }, SOON_S)
        cluster:recover()
    end)

    it("forbids nothing for what one database or role was given, and s for the whole server",
        function()
        local primary, since = cluster:primary(1), cluster:journal_end()
        local function fresh_look(level)
            wait.eventually("the watcher's sessions to have the setting", SOON_S, function()
                primary:sql("select pg_terminate_backend(pid) from pg_stat_activity " ..
                    "where application_name = 'moonrise probe'")
                return primary:value("current_setting('synchronous_commit')") == level
            end)
        end
        primary:sql("alter database postgres set synchronous_commit = off")
        primary:sql("alter role moonrise set synchronous_commit = local")
        fresh_look("off")
        -- Armed anew under these settings: neither the arming nor the watch after it minds them.
        cluster:mirror(1):kill()
        cluster:wait_journal({ kind = "release", content = 1, since = since }, wait.SOON_S)
        cluster:recover()
        local at = cluster:journal_end()
        wait.always("the pair is in sync", 3, function()
            return cluster:primary(1).mode == "s"
        end)
        assert.are.same({}, cluster:journal({ kind = "out_of_sync", content = 1, since = at }))
        primary:sql("alter database postgres reset synchronous_commit")
        primary:sql("alter role moonrise reset synchronous_commit")
        primary:sql("alter system set synchronous_commit = local")
        primary:sql("select pg_reload_conf()")
        cluster:wait_row({ dbid = primary.dbid, mode = "n" }, wait.SOON_S)
        primary:sql("alter system reset synchronous_commit")
        primary:sql("select pg_reload_conf()")
        cluster:wait_healthy()
    end)

    it("promotes nobody who lacks what the one that decided it had seen flushed", function()
        local mirror, since = cluster:mirror(1), cluster:journal_end()
        cluster:unwatch(SOON_S)
        local session = cluster:session("moonrise")
        assert.matches("^%d+\n", (session:ask("select moonrise.watcher_lease_take('spec')")))
        assert.matches("^%d+\n", (session:ask(([[select moonrise.promote(null, 1, %s,
            '{"flush_lsn": 1099511627776}', null)]]):format(mirror.dbid):gsub("%s+", " "))))
        session:close()
        watch = cluster:watch()
        cluster:wait_journal({ kind = "failed", content = 1, since = since,
            text = "received up to .* seen flushed there at 100/0" }, 30)
        assert.are.equal("t", mirror:value("pg_is_in_recovery()"))
    end)
end)
