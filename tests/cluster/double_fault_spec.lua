--- Both instances of a pair are lost, on real servers: what is told, what comes back by itself, and
--- what a person, or a policy in writing, may choose.

local cluster_of = require("tests.lib.cluster")
local json = require("moonrise").json_decode
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local SOON_S = wait.SOON_S

describe("a double fault", function()
    local place, cluster, watch, events

    local function begin_watch(...)
        watch = cluster:watch(...)
        watch:says("watching", SOON_S)
    end

    local function end_watch()
        assert.equals(0, cluster:unwatch(SOON_S))
    end

    local function count(server)
        return tonumber(server:value("select count(*) from ledger"))
    end

    -- The mirror is down and recorded, its primary goes on, and dies: one row is on it alone.
    local function lose_both(content)
        local primary, mirror = cluster:primary(content), cluster:mirror(content)
        local since = cluster:journal_end()
        mirror:kill()
        cluster:wait_journal({ kind = "release", content = content, since = since }, SOON_S)
        primary:sql("insert into ledger values (default)")
        -- So far it is at least, by its files.
        primary:sql("checkpoint")
        primary:kill()
        cluster:wait_journal({ kind = "double_fault", content = content, since = since }, SOON_S)
        return primary, mirror, since
    end

    setup(function()
        place = place_of.new()
        events = place:path("events")
        place:must({ "mkdir", "-p", place:path("hooks") })
        local hook = place:write("hooks/hook", "#!/bin/sh\ncat >> " .. events .. "\n")
        place:must({ "chmod", "755", hook })
        local book = place:write("hooks/book.lua", ([[
local mr = require("moonrise")
return { summary = "x", main = function()
    return mr.write_file(%q, mr.read_line()) and 0 or 1
end }]]):format(events .. ".book"))
        cluster = cluster_of.new(place, { segments = 2,
            on_event = { hook, { run = book, kinds = { "double_fault" } } } })
        cluster:init()
        for content = 0, 1 do
            cluster:primary(content):sql("create table ledger (i serial)")
        end
        begin_watch()
    end)

    teardown(place_of.close_all)

    before_each(function()
        if watch:code() then
            begin_watch()
        end
        cluster:mend()
    end)

    local function told_events(kind)
        local found = {}
        for line in (place_of.read(events) or ""):gmatch("[^\n]+") do
            local event = json(line)
            if event.kind == kind then
                table.insert(found, event)
            end
        end
        return found
    end

    it("of a pair that was in sync is told, and ends when somebody starts the mirror", function()
        local primary, mirror, since = cluster:primary(0), cluster:mirror(0), cluster:journal_end()
        end_watch()
        mirror:kill()
        primary:kill()
        begin_watch()
        local told = cluster:wait_journal({ kind = "double_fault", content = 0, since = since },
            SOON_S)
        local row = json(told.data)
        assert.is_true(row.survivors[1].in_sync and row.survivors[2].in_sync)
        assert.matches("^%x+/%x+$", row.survivors[2].lsn)
        local said = cluster:moonrise({ "recoverseg", "-a" })
        assert.equals(1, said.code)
        assert.matches("promoting it   loses nothing that was acknowledged", said.out .. said.err)
        assert.matches("recoverseg %-%-promote " .. mirror.dbid .. " promotes",
            said.out .. said.err)
        -- Before pg_ctl has seen it up it may be restarted already, here and below.
        mirror:start({ wait = false })
        cluster:wait_row({ dbid = mirror.dbid, role = "p" }, SOON_S)
        wait.eventually("a write", SOON_S, function()
            return mirror:try_sql("insert into ledger values (default)")
        end)
        told = cluster:wait_journal({ kind = "alert", content = 0, since = since }, SOON_S)
        assert.matches("somebody else", told.text)
    end)

    it("is shown with what is left; a mirror that is not in sync comes back to nothing", function()
        local primary, mirror, since = lose_both(0)
        local said = cluster:moonrise({ "state", "-e" })
        assert.equals(1, said.code)
        assert.matches("Double Faults", said.out)
        assert.matches(" " .. mirror.dbid .. "%s+Mirror%s+%d+%s+at least %x+/%x+%s+No%s+" ..
            "what was committed since %d+%-%d+%-%d+ [%d:]+ %(.-%); .* of WAL are known", said.out)
        local result = json(cluster:moonrise({ "state", "--json" }).out)
        assert.equals("double_fault", result.problems[#result.problems].kind)
        said = cluster:moonrise({ "recoverseg", "-a" })
        assert.equals(1, said.code)
        assert.matches("loses what was committed since", said.out .. said.err)
        assert.matches("loses nothing: it is the primary", said.out .. said.err)
        mirror:start({ wait = false })
        cluster:wait_journal({ kind = "start", content = 0, since = since }, SOON_S)
        wait.always("nobody is promoted", 2, function()
            return cluster:primary(0).dbid == primary.dbid
                and mirror:value("pg_is_in_recovery()") == "t"
        end)
        -- The primary comes back by somebody's hand: its agent restarts it, and it serves.
        primary:start({ wait = false })
        wait.eventually("a write", SOON_S, function()
            return primary:try_sql("insert into ledger values (default)")
        end)
        cluster:wait_healthy()
        local event = told_events("double_fault")[1]
        assert.equals(cluster.config.name, event.cluster)
        assert.equals(2, #event.data.survivors)
        assert.equals("double_fault", json(place_of.read(events .. ".book")).kind)
        assert.is_true(#told_events("state") > 0)
        assert.same({}, cluster:journal({ kind = "hook", content = 0 }))
    end)

    it("ends as the manual says: stop -r, recoverseg, state -m, recoverseg -F", function()
        local had = count(cluster:primary(1))
        local primary = lose_both(1)
        -- What cannot just be started is left to recoverseg.
        cluster:moonrise({ "stop", "-a", "-r", "-M", "fast" })
        cluster:recover()
        assert.matches("mirror1.*Passive%s+Synchronized", cluster:moonrise({ "state", "-m" }).out)
        cluster:must({ "recoverseg", "-a", "-F" })
        assert.equals(primary.dbid, cluster:primary(1).dbid)
        assert.equals(had + 1, count(cluster:primary(1)))
    end)

    it("ends by a person's choice, who accepts the loss; the old primary cannot come back",
        function()
        local primary, mirror, since = lose_both(1)
        local function choose(...)
            return cluster:moonrise({ "recoverseg", "-a", "--promote", mirror.dbid, ... })
        end
        local said = choose()
        assert.equals(1, said.code)
        assert.matches("promoting it loses what was committed since", said.out .. said.err)
        assert.matches("%-%-accept%-loss TEXT", said.out .. said.err)
        assert.equals(2, choose("--accept-loss", " ").code)
        assert.equals(0, choose("--accept-loss", "ticket 17", "--dry-run").code)
        assert.same({}, cluster:journal({ kind = "promote", content = 1, since = since }))
        said = choose("--accept-loss", "ticket 17, J. Doe")
        assert.equals(0, said.code, said.out .. said.err)
        assert.equals("f", mirror:value("pg_is_in_recovery()"))
        local row = cluster:journal({ kind = "promote", content = 1, since = since })[1]
        assert.equals("ticket 17, J. Doe", json(row.data).accept_loss)
        assert.has_error(function() primary:start({ timeout_s = 5 }) end)
        assert.equals(0, choose().code)
        cluster:recover()
        assert.equals(mirror.dbid, cluster:primary(1).dbid)
    end)

    it("ends by a choice though the old primary has no epoch file any more", function()
        local primary, mirror = lose_both(0)
        assert(os.remove(primary.datadir .. "/moonrise.epoch"))
        local said = cluster:moonrise({ "recoverseg", "-a", "--promote", mirror.dbid,
            "--accept-loss", "ticket 18" })
        assert.equals(0, said.code, said.out .. said.err)
        assert.matches("not marked; it has no valid moonrise.epoch", said.out .. said.err, 1, true)
        assert.equals("f", mirror:value("pg_is_in_recovery()"))
        cluster:must({ "recoverseg", "-a" })
        cluster:wait_healthy()
    end)

    it("is not ended by a mirror that has run as a primary meanwhile", function()
        local primary, mirror = cluster:primary(0), cluster:mirror(0)
        end_watch()
        mirror:kill()
        primary:kill()
        local signal = mirror.datadir .. "/standby.signal"
        assert(os.remove(signal))
        mirror:start()
        mirror:sql("insert into ledger values (default); checkpoint")
        mirror:stop()
        place:must({ "touch", signal })
        mirror:start()
        mirror:stop()
        local said = cluster:moonrise({ "recoverseg", "-a", "--promote", mirror.dbid })
        assert.equals(1, said.code, said.out)
        assert.matches("it has run as a primary", said.err, 1, true)
        assert.equals(primary.dbid, cluster:primary(0).dbid)
    end)

    it("whose primary's host says nothing ends when a person has seen that it is gone", function()
        local primary, mirror, since = lose_both(0)
        place:must({ "chmod", "000", primary.datadir })
        local args = { "recoverseg", "-a", "--promote", mirror.dbid, "--accept-loss", "ticket 18" }
        local said = cluster:moonrise(args)
        assert.equals(1, said.code)
        assert.matches("%-%-primary%-is%-gone", said.err)
        table.insert(args, "--primary-is-gone")
        cluster:must(args)
        assert.equals("f", mirror:value("pg_is_in_recovery()"))
        place:must({ "chmod", "700", primary.datadir })
        cluster:wait_journal({ kind = "mark", content = 0, since = since }, SOON_S)
        assert.has_error(function() primary:start({ timeout_s = 5 }) end)
    end)

    it("cannot end by a choice while the mirror hears a primary that is out of reach", function()
        local primary, mirror = cluster:primary(0), cluster:mirror(0)
        end_watch()
        finally(function()
            place:must({ "chmod", "700", primary.datadir })
            primary:kill("CONT")
        end)
        primary:kill("STOP")
        place:must({ "chmod", "000", primary.datadir })
        local said = cluster:moonrise({ "recoverseg", "-a", "--promote", mirror.dbid,
            "--primary-is-gone" })
        assert.equals(1, said.code, said.out .. said.err)
        assert.matches("rule 3: the mirror still hears its primary", said.err)
        assert.equals("t", mirror:value("pg_is_in_recovery()"))
    end)

    it("ends with the old primary fenced and marked, though it is started meanwhile", function()
        local primary, mirror = lose_both(1)
        end_watch()
        local choice = cluster:start({ "recoverseg", "-a", "--promote", mirror.dbid,
            "--accept-loss", "ticket 20" })
        wait.eventually("the mirror's start", SOON_S, function()
            return mirror:running() and mirror:try_sql("select 1")
        end)
        -- It is asked until it is still; by then somebody has had an idea.
        mirror:kill("STOP")
        primary:start()
        mirror:kill("CONT")
        assert.equals(0, choice:wait(wait.SOON_S), choice:output())
        assert.equals("f", mirror:value("pg_is_in_recovery()"))
        assert.is_false(primary:running())
        assert.is_nil(place_of.read(primary.datadir .. "/global/pg_control"))
    end)

    it("is completed by the watcher, or by the next run, once a choice is recorded", function()
        for _, watched in ipairs({ true, false }) do
            local _, mirror, since = lose_both(1)
            end_watch()
            mirror:start()
            local session = cluster:session("moonrise")
            local token = session:ask("select moonrise.lease_take(1, 'x@" ..
                place:must({ "hostname" }):gsub("%s", "") ..
                (" pid 4194303 boot %s', 'promote', 'choosing', '30 s')"):format(
                    place_of.read("/proc/sys/kernel/random/boot_id"):sub(1, 8))):match("%d+")
            assert.matches("^%d+", (session:ask(([[select moonrise.promote(%s, 1, %s,
                '{"flush_lsn": 1}', 'ticket 19')]]):format(token, mirror.dbid):gsub("%s+", " "))))
            session:close()
            if watched then
                begin_watch()
            else
                local said = cluster:moonrise({ "recoverseg", "-a" })
                assert.equals(1, said.code)
                assert.matches("listens nowhere", said.err)
            end
            wait.eventually("the promotion", SOON_S, function()
                return mirror:value("pg_is_in_recovery()") == "f"
            end)
            cluster:wait_journal({ kind = "promoted", content = 1, since = since }, SOON_S)
            if not watched then
                begin_watch()
            end
            cluster:mend()
        end
    end)

    it("ends by a policy that accepts the loss in writing, after its patience", function()
        local text = place_of.read("policies/examples/last_resort.lua")
        local file = place:write("policy.lua", (text:gsub("60 %* 60 %* 1000", "3000")))
        end_watch()
        begin_watch("--policy", "failover=" .. file)
        local _, mirror, since = lose_both(0)
        mirror:start({ wait = false })
        local row = cluster:wait_journal({ kind = "promote", content = 0, since = since }, SOON_S)
        assert.matches("owner of this data", json(row.data).accept_loss)
        wait.eventually("a write", SOON_S, function()
            return mirror:try_sql("insert into ledger values (default)")
        end)
        cluster:wait_journal({ kind = "mark", content = 0, since = since }, SOON_S)
        end_watch()
    end)
end)
