--- Failover on real servers: what the watcher does when a server is killed, hangs, or comes back.

local cluster_of = require("tests.lib.cluster")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

-- Generous, since the machine has other work; `make bench` measures.
local SOON_S = wait.SOON_S

describe("failover", function()
    local place, cluster, watch

    local function writes(server, deadline_s)
        server:wait_sql("insert into ledger values (default)", deadline_s or SOON_S, function()
            return watch:output()
        end)
    end

    -- A time between two writes that a session saw, at most: writes until fn() is true.
    local function longest_stall(server, fn)
        local longest, before = 0, wait.now()
        repeat
            server:sql("insert into ledger values (default)", { timeout_s = wait.SOON_S })
            longest, before = math.max(longest, wait.now() - before), wait.now()
        until fn()
        return longest
    end

    setup(function()
        place = place_of.new()
        cluster = cluster_of.new(place, { segments = 2, standby = true })
        cluster:init()
        for content = 0, 1 do
            cluster:primary(content):sql("create table ledger (i serial)")
        end
        watch = cluster:watched()
    end)

    teardown(place_of.close_all)

    it("promotes the mirror of a killed primary, and tells it with times", function()
        local since = cluster:journal_end()
        local old, mirror = cluster:primary(0), cluster:mirror(0)
        old:sql("insert into ledger select from generate_series(1, 100)")
        local rows = old:value("select count(*) from ledger")
        old:kill()
        writes(mirror)
        cluster:wait_row({ dbid = mirror.dbid, role = "p", status = "u", mode = "n" }, SOON_S)
        cluster:wait_row({ dbid = old.dbid, role = "m", status = "d", mode = "n" }, SOON_S)
        assert.is_true(tonumber(mirror:value("select count(*) from ledger")) >= tonumber(rows))
        local told = cluster:wait_journal({ kind = "failover", content = 0, since = since }, SOON_S)
        assert.matches("is the primary, %d+ ms after", told.text)
        for _, kind in ipairs({ "state", "decision", "promote", "promoted" }) do
            assert.is_not_nil(cluster:journal({ kind = kind, content = 0, since = since })[1], kind)
        end
        for _, part in ipairs({ "seen", "decided", "recorded", "promoted" }) do
            assert.matches('"' .. part .. '": %d+', told.data)
        end
        -- The other pair noticed nothing.
        assert.is_nil(cluster:journal({ kind = "state", content = 1, since = since })[1])
    end)

    it("leaves the old primary marked, so that nobody can start it", function()
        local old = cluster:mirror(0)
        cluster:wait_journal({ kind = "mark", content = 0 }, SOON_S)
        assert.has_error(function() old:start({ timeout_s = 5 }) end)
        assert.is_false(old:running())
    end)

    it("goes back and forth", function()
        for _ = 1, 2 do
            cluster:recover()
            local mirror = cluster:mirror(0)
            cluster:primary(0):kill()
            writes(mirror)
            cluster:wait_row({ dbid = mirror.dbid, role = "p" }, SOON_S)
        end
        cluster:recover()
    end)

    it("does not come of a backend's crash", function()
        local primary, since = cluster:primary(1), cluster:journal_end()
        local session = primary:session()
        local pid = tonumber((session:ask("select pg_backend_pid()")))
        place_of.kill(pid, "KILL")
        writes(primary, 30)
        cluster:wait_healthy()
        assert.are.equal(primary.dbid, cluster:primary(1).dbid)
        assert.is_nil(cluster:journal({ kind = "promote", content = 1, since = since })[1])
    end)

    -- How long writes stall is the business of `make bench NAME=mirror_loss`; without its agent's
    -- word a lost mirror has a grace period of 30 seconds.
    it("is not needed for a lost mirror: it is recorded, and writes go on without a grace period",
        function()
        local primary, mirror, since = cluster:primary(1), cluster:mirror(1), cluster:journal_end()
        mirror:kill()
        local stall = longest_stall(primary, function()
            return cluster:journal({ kind = "release", content = 1, since = since })[1]
        end)
        assert.is_true(stall < 15, stall)
        cluster:wait_row({ dbid = mirror.dbid, status = "d", mode = "n" }, SOON_S)
        assert.are.equal("", primary:value("current_setting('synchronous_standby_names')"))
        cluster:recover()
        assert.are_not.equal("", primary:value("current_setting('synchronous_standby_names')"))
    end)

    it("is refused when both are gone, which is told; the primary's return ends it", function()
        local primary, mirror, since = cluster:primary(0), cluster:mirror(0), cluster:journal_end()
        mirror:kill()
        cluster:wait_row({ dbid = mirror.dbid, status = "d" }, SOON_S)
        primary:kill()
        local told = cluster:wait_journal({ kind = "double_fault", content = 0, since = since },
            SOON_S)
        assert.matches("nothing is promoted", told.text)
        assert.is_nil(cluster:journal({ kind = "promote", content = 0, since = since })[1])
        cluster:must({ "start", "-a" })
        cluster:recover()
        assert.are.equal(primary.dbid, cluster:primary(0).dbid)
    end)

    it("is no matter of a mirror that somebody else starts: its agent restarts it", function()
        local mirror, since = cluster:mirror(1), cluster:journal_end()
        mirror:stop()
        cluster:wait_row({ dbid = mirror.dbid, status = "d" }, SOON_S)
        -- Before pg_ctl has seen it up it may be restarted already.
        mirror:start({ wait = false })
        cluster:wait_healthy()
        local told = cluster:wait_journal({ kind = "alert", content = 1, since = since }, SOON_S)
        assert.matches("somebody else", told.text)
    end)

    it("ends an old primary that is there although the catalog has another one", function()
        local old, mirror = cluster:primary(1), cluster:mirror(1)
        cluster:unwatch(SOON_S)
        local session = cluster:session("moonrise")
        assert.matches("^%d+\n", (session:ask("select moonrise.watcher_lease_take('spec')")))
        assert.matches("^%d+\n", (session:ask(("select moonrise.promote(null, 1, %s, '{}', null)")
            :format(mirror.dbid))))
        session:close()
        watch = cluster:watch()
        writes(mirror, 30)
        wait.eventually("the old primary to be ended and marked", wait.SOON_S, function()
            return not old:running() and not place_of.read(old.datadir .. "/global/pg_control")
        end)
        cluster:recover()
    end)

    it("records a lost standby, and the coordinator's commits go on", function()
        local standby = cluster:mirror(-1)
        standby:kill()
        cluster:wait_row({ dbid = standby.dbid, status = "d", mode = "n" }, SOON_S)
        cluster:coordinator():sql("create table after_it (i int)", { timeout_s = wait.SOON_S })
    end)

    describe("with a watcher that is killed", function()
        -- As soon as the journal has a row of this kind the watcher dies, and another one goes on.
        for _, kind in ipairs({ "state", "decision", "promote", "promoted" }) do
            it("right after " .. kind .. " is completed by the next", function()
                local old, mirror = cluster:primary(0), cluster:mirror(0)
                local since = cluster:journal_end()
                old:kill()
                cluster:wait_journal({ kind = kind, content = 0, since = since }, SOON_S)
                watch:kill("KILL")
                watch:wait(SOON_S)
                watch = cluster:watch()
                writes(mirror, 30)
                cluster:wait_row({ dbid = mirror.dbid, role = "p" }, SOON_S)
                wait.eventually("the old primary to be marked", SOON_S, function()
                    return not place_of.read(old.datadir .. "/global/pg_control")
                end)
                cluster:recover()
            end)
        end

        it("in a release is completed by the next", function()
            local primary, mirror = cluster:primary(0), cluster:mirror(0)
            local since = cluster:journal_end()
            mirror:kill()
            cluster:wait_journal({ kind = "mirror_down", content = 0, since = since }, SOON_S)
            watch:kill("KILL")
            watch:wait(SOON_S)
            watch = cluster:watch()
            writes(primary, 30)
            wait.eventually("the primary to be released", SOON_S, function()
                return primary:value("current_setting('synchronous_standby_names')") == ""
            end)
            cluster:recover()
        end)
    end)
end)
