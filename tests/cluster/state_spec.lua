--- `moonrise state` and `moonrise history` on real servers, healthy and not.

local cluster_of = require("tests.lib.cluster")
local pg = require("tests.lib.pg")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local OPTIONS = { "-b", "-e", "-s", "-m", "-c", "-f", "-Q", "-p", "-i" }
-- The catalog within three times 2 s, then each host within 10 s; the rest is a busy machine.
local NEVER_LONGER_S = 30

-- Runs `state` with every option, three at a time; fn(option, code, output) for each.
local function with_every_option(cluster, more, fn)
    for first = 1, #OPTIONS, 3 do
        local programs = {}
        for i = first, first + 2 do
            programs[i] = cluster:start({ "state", OPTIONS[i], unpack(more) })
        end
        for i = first, first + 2 do
            fn(OPTIONS[i], programs[i]:wait(NEVER_LONGER_S), programs[i]:output())
        end
    end
end

describe("state", function()
    local place, cluster, stopped

    local function state(...)
        local began = wait.now()
        local result = cluster:moonrise({ "state", "--timeout", "2s", ... }, { timeout_s = 60 })
        assert.is_true(wait.now() - began < NEVER_LONGER_S, "it took too long")
        return result
    end

    local function hang(server)
        table.insert(stopped, server)
        server:kill("STOP")
    end

    setup(function()
        stopped = {}
        place = place_of.new()
        cluster = cluster_of.new(place, { segments = 2, standby = true })
        cluster:init()
    end)

    after_each(function()
        for _, server in ipairs(stopped) do
            server:kill("CONT")
        end
        stopped = {}
    end)

    teardown(place_of.close_all)

    it("of a healthy cluster is 0 with every option", function()
        with_every_option(cluster, {}, function(option, code, output)
            assert.equal(0, code, option .. output)
            assert.not_matches("WARNING", output)
        end)
        assert.matches("All segments are running normally", state("-e").out)
        assert.matches("WAL Sender State: streaming", state("-f").out)
        assert.matches("Standby coordinator state%s+= Standby host passive", state().out)
        assert.matches('"ok":true', state("--json").out)
        assert.matches('"problems":%[%]', state("--json").out)
        for command, list in pairs({ recoverseg = "recovered", resume = "resumed" }) do
            assert.matches(('"%s":%%[%%]'):format(list), cluster:must({ command, "-a", "--json" }))
        end
    end)

    it("that counts as stopped is 1: nobody would fail anything over", function()
        cluster:catalog("update cluster_state set state = 'stopped'")
        finally(function()
            cluster:catalog("update cluster_state set state = 'running'")
        end)
        local result = state("-e")
        assert.equal(1, result.code)
        assert.matches("counts as stopped: nothing is failed over", result.out, 1, true)
        assert.matches("%S+%s+stopped%s+moonrise start", result.out)
        assert.equal(1, state("-Q").code)
        assert.matches('"kind":"stopped"', state("--json").out)
    end)

    it("refuses what makes no sense with 2", function()
        local wrong = { { "-x" }, { "-b", "-e" }, { "-s", "-m" }, { "stray" }, { "-z" } }
        for _, args in ipairs(wrong) do
            local result = state(unpack(args))
            assert.equal(2, result.code, table.concat(args, " "))
            assert.equal("", result.out)
        end
    end)

    it("says which commits are acknowledged before they are safe", function()
        local primary = cluster:primary(0)
        primary:sql("alter database postgres set synchronous_commit = off")
        local result = state("-e")
        assert.equal(0, result.code)
        assert.matches("localhost%s+%d+%s+postgres%s+all%s+off", result.out)
        primary:sql("alter database postgres reset synchronous_commit")
        primary:sql("alter system set synchronous_commit = local")
        primary:sql("select pg_reload_conf()")
        wait.eventually("the setting in state -e", wait.SOON_S, function()
            result = state("-e")
            return result.code == 1 and result.out:match("localhost%s+%d+%s+local")
        end)
        primary:sql("alter system reset synchronous_commit")
        primary:sql("select pg_reload_conf()")
        wait.eventually("a clean state -e", wait.SOON_S, function()
            return state("-e").code == 0
        end)
    end)

    it("shows a recovery while it runs, and one that was interrupted", function()
        cluster:mirror(0):kill()
        cluster:must({ "watch", "--once" })
        local recovery = cluster:start({ "recoverseg", "-a", "-F", "--max-rate", "1M" })
        wait.eventually("a recovery with its progress", wait.SOON_S, function()
            local result = state("-e")
            return result.out:match("full%s+copying%s+%d+%s+%d+%s+%d+%%"), result.out
        end)
        recovery:kill("KILL")
        wait.eventually("an interrupted recovery", wait.SOON_S, function()
            local result = state("-e")
            return result.out:match("full%s+interrupted, run it again"), result.out
        end)
        wait.eventually("the lease of the killed run to end", wait.SOON_S, function()
            return cluster:moonrise({ "recoverseg", "-a" }).code == 0
        end)
        wait.eventually("a clean state -e", wait.SOON_S, function()
            local result = state("-e")
            return result.code == 0, result.out
        end)
    end)

    it("shows an instance that hangs and does not hang with it", function()
        local mirror = cluster:mirror(0)
        hang(mirror)
        with_every_option(cluster, { "--timeout", "2s" }, function(option, code, output)
            assert.equal(option == "-Q" and 0 or 1, code, option .. output)
        end)
        assert.matches("localhost%s+" .. mirror.port ..
            "%s+Up%s+Process error %-%- does not answer", state("-e").out)
    end)

    it("of a coordinator that hangs tells what the standby knows", function()
        hang(cluster:coordinator())
        with_every_option(cluster, { "--timeout", "2s" }, function(option, code, output)
            assert.equal(1, code, option .. output)
            assert.matches("The coordinator cannot be asked", output, option)
        end)
    end)

    it("shows an instance that is gone before anybody else knows", function()
        local primary = cluster:primary(1)
        primary:kill()
        local result = state("-e")
        assert.equal(1, result.code)
        assert.matches("localhost%s+" .. primary.port .. "%s+Up%s+Process error", result.out)
        assert.matches("%[WARNING%]:%-Primary Failed, Mirror Available", state("-c").out)
        assert.matches("Total primary segment failures %(at coordinator%)%s+= 1", state("-b").out)
    end)

    it("and history of a dead coordinator tell what the standby knows", function()
        local all = cluster:must({ "history", "-n", "1000" })
        assert.matches("cluster [%w_]+ was made", all)
        cluster:coordinator():kill()
        local result = state("-s")
        assert.equal(1, result.code)
        assert.matches("Coordinator current role%s+= Down", result.out)
        assert.matches("Standby coordinator state%s+= Standby host passive", result.out)
        assert.matches('"source":"standby"', state("--json").out)
        result = cluster:moonrise({ "history", "-n", "1000" })
        assert.equal(1, result.code)
        assert.matches("cluster [%w_]+ was made", result.out)
        cluster.datadir = cluster.config.standby.datadir
        assert.matches("This is what its standby knows", state("-b").out)
    end)

    it("of a cluster of which nothing answers says that and ends", function()
        hang(pg.at(place, cluster.config.standby.datadir))
        local result = state("-e")
        assert.equal(1, result.code)
        assert.matches("catalog", result.err)
    end)
end)

describe("history", function()
    local place, cluster

    setup(function()
        place = place_of.new()
        cluster = cluster_of.new(place, { segments = 1, mirrors = false })
        cluster:init()
    end)

    teardown(place_of.close_all)

    it("ends with the newest and keeps to what was asked for", function()
        for _, text in ipairs({ "'the first' || chr(10) || 'of two'", "'the second'" }) do
            cluster:catalog(("select journal_add('note', 0, null, %s, null)"):format(text))
        end
        local out = cluster:must({ "history", "-n", "2" })
        assert.matches("^Time[^\n]*\n[^\n]*note%s+the first of two\n" ..
            "[^\n]*note%s+the second\n$", out)
        assert.matches("^[^\n]*\n[^\n]*the second\n$", cluster:must({ "history", "-n", "1" }))
        assert.matches("^[^\n]*Nothing is recorded about this content\n$",
            cluster:must({ "history", "--content", "7" }))
        assert.not_matches("the second", cluster:must({ "history", "--content", "-1" }))
        assert.matches('"text":"the second"', cluster:must({ "history", "-n", "1", "--json" }))
        assert.equal(2, cluster:moonrise({ "history", "-n", "0" }).code)
    end)

    it("includes what waits on this host for a coordinator", function()
        local file = assert(io.open(cluster:state_file("journal.jsonl"), "w"))
        file:write('{"kind":"seen","content":0,"text":"while there was none",',
            '"data":{"at":4102444800123}}\nnonsense\n')
        file:close()
        local out = cluster:must({ "history", "-n", "1" })
        assert.matches("2100%-01%-01 %d%d:00:00.123%s+0%s+seen%s+while there was none", out)
    end)

    it("and state of a cluster without mirrors and standby are 0", function()
        with_every_option(cluster, {}, function(option, code, output)
            assert.equal(0, code, option .. output)
        end)
        assert.matches("No coordinator standby configured", cluster:must({ "state", "-f" }))
    end)
end)
