--- kill -9 at any moment of a recovery whose pieces are on different hosts: of the command, of the
--- target's agent, of what feeds it, of the sshd in between, or a whole host loses its power. What
--- is half made cannot be started, nobody works on, the same command ends it well, and no
--- acknowledged row is missing. MOONRISE_FAULTS=N rounds, and MOONRISE_SEED=N draws the same again.

local checkup = require("tests.lib.checkup")
local dice_of = require("tests.lib.dice")
local far_of = require("tests.lib.far")
local hosts_kills = require("tests.lib.hosts_kills")
local hurt = require("tests.lib.hurt")
local needs = require("tests.lib.needs")
local pinned = require("tests.lib.pinned")
local place_of = require("tests.lib.place")
local sorted = require("tests.lib.sorted")
local wait = require("tests.lib.wait")

local SOON_S = wait.SOON_S
-- By then a command has noticed that somebody is silent, or has waited for a copy to stream.
local NOTICED_S = 180
-- With the command the work on all hosts is over, or a minute after a host has fallen silent.
local OVER_S = 90
local LONG = tonumber(os.getenv("MOONRISE_FAULTS")) or os.getenv("MOONRISE_CAMPAIGN") and 60
local ROUNDS = LONG or 3
local SEED = not LONG and not tonumber(os.getenv("MOONRISE_SEED")) and 1973265 or nil
-- A full copy takes most of the longer span; half of the kills come while it begins.
local ROWS, RATE, SPANS_S = 60000, "6MB", { 1.5, 8 }
local HOSTS = { "sdw1", "sdw2", "sdw3" }
local CHANGE = [[
update big set b = sha512(b) where i %% 3 = %d; vacuum big;
drop table if exists made; create table made as select * from big where i %% 7 = %d]]

-- What somebody runs, and after which losses; ELSEWHERE is the host that neither of the pair is on.
local ELSEWHERE = {}
local WAYS = {
    { losses = { "killed", "gone", "power" } },
    { losses = { "killed", "files", "pages" }, "--differential" },
    { losses = sorted(hosts_kills.losses), "-F" },
    { losses = { "killed", "gone", "power" }, "-p", ELSEWHERE },
}

describe("recoverseg, killed on one of its hosts,", function()
    local place, far, cluster, writers, world
    local half_made = 0
    local dice = dice_of.new(SEED)

    -- Where an instance may get to be: on each host, at the port of either.
    local function places()
        local list = {}
        for _, row in ipairs(cluster:rows()) do
            for _, host in ipairs(row.content == "0" and HOSTS or {}) do
                if host ~= row.hostname then
                    table.insert(list, { dbid = 100 + #list, content = 0, address = host,
                        port = tonumber(row.port) })
                end
            end
        end
        return list
    end

    setup(function()
        place = place_of.new()
        far = far_of.new(place, { mirrors = { "sdw2" }, spares = { "sdw3" }, rows = ROWS,
            settings = { max_wal_size = "64MB" }, watch = { grace_ms = 5000 } })
        cluster = far.cluster
        if cluster then
            cluster:watched()
            writers = pinned.open(cluster, nil, places())
            world = { lab = far.lab, cluster = cluster, dice = dice }
        end
    end)

    teardown(place_of.close_all)

    local function elsewhere()
        local primary, mirror = cluster:primary(0).hostname, cluster:mirror(0).hostname
        for _, host in ipairs(HOSTS) do
            if host ~= primary and host ~= mirror then
                return host
            end
        end
    end

    local function lose(how, round)
        local mirror = cluster:mirror(0)
        local later = hosts_kills.losses[how](world)
        cluster:wait_row({ dbid = mirror.dbid, status = "d", mode = "n" }, SOON_S)
        cluster:primary(0):sql(CHANGE:format(round % 3, round % 7), { timeout_s = SOON_S })
        later()
    end

    local function begin(way)
        local argv = { "recoverseg", "-a" }
        world.source, world.target = cluster:primary(0).hostname, cluster:mirror(0).hostname
        for _, word in ipairs(way) do
            if word == ELSEWHERE then
                word = elsewhere()
                world.target = word
            end
            table.insert(argv, word)
        end
        world.run = cluster:start({ "recoverseg", "--max-rate", RATE, unpack(argv, 2) })
        return argv
    end

    local function nobody_works_on()
        for _, host in ipairs(far.lab.hosts) do
            wait.eventually("the work on " .. host.name .. " to end", OVER_S, function()
                local workers = host.first and hosts_kills.workers(host) or ""
                return workers == "", workers
            end)
        end
    end

    -- What is half made; it counts, since a run that finds nothing proves nothing.
    local function nothing_starts()
        for _, host in ipairs(far.lab.hosts) do
            local said = hosts_kills.start_anyway(host, cluster.config.pg.bin)
            assert.is_nil(said:find("starts", 1, true), said)
            half_made = half_made + select(2, said:gsub("refuses", ""))
        end
    end

    -- The watcher knows what has become of the pair.
    local function is_seen()
        cluster:moonrise({ "start", "-a" })
        wait.eventually("a primary, and a mirror as the catalog says", SOON_S, function()
            local mirror = cluster:mirror(0)
            return cluster:primary(0):value("pg_is_in_recovery()") == "f"
                and (mirror.status == "d" or mirror:value("pg_is_in_recovery()") == "t")
        end)
    end

    -- Nobody writes while the two are compared.
    local function is_well()
        cluster:wait_healthy()
        writers:progress(10, SOON_S)
        local thaw = hurt.freeze({ writers.program.pid })
        checkup.pair(cluster, 0)
        thaw()
        wait.eventually("no place to be left", SOON_S, function()
            return #cluster:catalog("select * from left_place") == 0
        end)
        nobody_works_on()
    end

    local function ends_well(argv)
        local result = cluster:moonrise(argv, { timeout_s = NOTICED_S })
        assert.are.equal(0, result.code, result.out .. result.err)
        is_well()
    end

    local function round(n)
        local way = dice:pick(WAYS)
        local loss = dice:pick(way.losses)
        local victim = dice:pick(sorted(hosts_kills.victims))
        lose(loss, n)
        local argv = begin(way)
        local delay = dice:number(dice:pick(SPANS_S))
        local story = ("round %d: %s, %s, %s after %.2f s"):format(n, loss,
            table.concat(argv, " "), victim, delay)
        dice:told(story, function()
            local began = wait.now()
            wait.eventually("the moment", 2 * delay + 1, function()
                return wait.now() - began > delay or world.run:code()
            end)
            local undo, met = hosts_kills.victims[victim](world)
            local code = world.run:wait(NOTICED_S)
            print(("# %s%s: code %d"):format(story, met and "" or " (nobody)", code))
            assert.is_nil(world.run:output():find("traceback", 1, true), world.run:output())
            undo()
            nobody_works_on()
            nothing_starts()
            is_seen()
            ends_well(argv)
        end)
    end

    local test = needs.of(getfenv(), function()
        return cluster, far.why_not
    end)

    test("at any moment, is run again and ends well", function()
        print(("# MOONRISE_SEED=%d, %d rounds"):format(dice.seed, ROUNDS))
        for n = 1, ROUNDS do
            round(n)
        end
        assert.is_true(half_made >= ROUNDS / 5, half_made .. " copies were half made")
        checkup.checksums(cluster, 0)
        pinned.sound(cluster, writers:prove())
        assert.are.equal(0, cluster:unwatch(SOON_S))
    end)
end)
