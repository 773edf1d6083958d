--- kill -9 at any moment of a recovery: of the command, of its agent, of the source. Each is
--- followed by a plain rerun, and the result is the same data. MOONRISE_CAMPAIGN=1 does it hundreds
--- of times.

local checkup = require("tests.lib.checkup")
local dice_of = require("tests.lib.dice")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")
local workload = require("tests.lib.workload")

local SOON_S = wait.SOON_S
local ROUNDS = os.getenv("MOONRISE_CAMPAIGN") and 300 or 2
local SETTINGS = { max_wal_size = "32MB", min_wal_size = "32MB", autovacuum = "off",
    allow_in_place_tablespaces = "on" }
-- Slow enough that a kill finds something to interrupt: a copy takes a few seconds.
local RATE = "30MB"
local SPAN_S = 6

describe("recoverseg, killed,", function()
    local place, cluster, run
    local round = 0
    local dice = dice_of.new()

    setup(function()
        place = place_of.new()
        cluster = workload.cluster(place, SETTINGS)
    end)

    teardown(place_of.close_all)

    -- Whatever a test left, the next one finds a pair in sync.
    before_each(function()
        cluster:mend()
    end)

    after_each(function()
        workload.stop_all()
        if run and not run:code() then
            run:kill("KILL")
        end
    end)

    local function half_made(server)
        return place_of.read(server.datadir .. "/moonrise.patch") ~= nil
    end

    local function begin(kind)
        local target = cluster:mirror(0)
        target:kill()
        cluster:wait_row({ dbid = target.dbid, status = "d", mode = "n" }, SOON_S)
        round = round + 1
        workload.change(cluster:primary(0), round)
        workload.start(cluster:primary(0))
        run = cluster:start({ "recoverseg", "-a", kind, "--max-rate", RATE })
        return target
    end

    local function agent_of(pid)
        return tonumber(io.popen("ps -o pid= --ppid " .. pid):read("*l"))
    end

    local victims = {}

    -- The agent ends with its command.
    function victims.command()
        local agent = agent_of(run.pid)
        run:kill("KILL")
        run:wait(SOON_S)
        wait.eventually("the agent to end with its command", SOON_S, function()
            return not (agent and place_of.alive(agent))
        end)
    end

    function victims.agent()
        local agent = agent_of(run.pid)
        if agent then
            place_of.kill(agent, "KILL")
        end
        return run:wait(wait.SOON_S)
    end

    function victims.source()
        cluster:primary(0):kill()
        -- A target that was just being started is given two minutes to stream.
        local code = run:wait(150)
        -- It says that the half-made mirror is not started. If the pair was in sync again there has
        -- been a failover instead.
        cluster:moonrise({ "start", "-a" })
        wait.eventually("a primary that takes writes", SOON_S, function()
            return cluster:primary(0):value("pg_is_in_recovery()") == "f"
        end)
        return code
    end

    local function cannot_be_started(target)
        if half_made(target) then
            local started, said = workload.starts_anyway(target)
            assert.is_false(started, said)
        end
    end

    local function rerun()
        local result = cluster:moonrise({ "recoverseg", "-a" })
        assert.are.equal(0, result.code, result.out .. result.err)
        cluster:wait_healthy()
        workload.stop_all()
        checkup.pair(cluster, 0)
    end

    local function interrupted(kind, victim)
        local target = begin(kind)
        wait.eventually("the copy to be half made", SOON_S, function()
            return half_made(target), run:output()
        end)
        local code = victims[victim]()
        assert.is_true(half_made(target))
        assert.are_not.equal(0, code)
        cannot_be_started(target)
        rerun()
    end

    for _, kind in ipairs({ "--differential", "-F" }) do
        for _, victim in ipairs({ "command", "agent", "source" }) do
            it(("%s: the %s goes, and the rerun ends it well"):format(kind, victim), function()
                interrupted(kind, victim)
            end)
        end
    end

    it("at any moment", function()
        for n = 1, ROUNDS do
            local kind, victim = dice:pick({ "--differential", "-F" }),
                dice:pick({ "command", "agent", "source" })
            local delay = dice:number(SPAN_S)
            dice:told(("round %d: %s, the %s after %.3f s"):format(n, kind, victim, delay),
                function()
                    local target = begin(kind)
                    local began = wait.now()
                    wait.eventually("the moment", SPAN_S + 1, function()
                        return wait.now() - began > delay or run:code()
                    end)
                    victims[victim]()
                    cannot_be_started(target)
                    rerun()
                end)
        end
        checkup.checksums(cluster, 0)
    end)
end)
