--- The watcher, the runbooks, the state machine and the guards on a virtual clock: many lives of a
--- pair, each from a seed, and for each rule of the safety core that is broken on purpose a life
--- that shows it. MOONRISE_SEED=N lives through that seed alone.
local coordinator = require("tests.sim.coordinator")
local copy = require("tests.lib.copy")
local mutants = require("tests.sim.mutants")
local run = require("tests.sim.run")

local LIVES = os.getenv("MOONRISE_CAMPAIGN") and 3000 or 60
-- How many lives a broken rule may hide in.
local MUTANT_LIVES = 300
local STORY_LINES = 60

local only = tonumber(os.getenv("MOONRISE_SEED"))

-- The end of a life, told.
local function story(life, seed)
    local _, world = life(seed, { story = true })
    local lines = { unpack(world.story, math.max(1, #world.story - STORY_LINES)) }
    return table.concat(lines, "\n")
end

local function life_that_shows(mutant)
    local life = mutant.life == "coordinator" and coordinator.life or run.life
    for i = 0, MUTANT_LIVES do
        local _, world = life(i == 0 and mutant.seed or i, { rules = copy(mutant.rules or {}),
            mutate = mutant.mutate, version = mutant.version, ordeal = mutant.ordeal })
        if world.promise.broken then
            return world.promise.broken
        end
    end
    return nil
end

-- Lives through so many seeds.
local function lives(life, count)
    local acknowledged = 0
    for seed = only or 1, only or count do
        local broken, world = life(seed)
        if broken then
            error(("MOONRISE_SEED=%d: %s\n%s"):format(seed, broken, story(life, seed)), 0)
        end
        acknowledged = acknowledged + #world.promise.acknowledged
    end
    assert.is_true(acknowledged > 0)
end

describe("a simulated pair", function()
    it("keeps the promise, and is in sync again after every trouble", function()
        lives(run.life, LIVES)
    end)

    it("keeps the promise as the coordinator's, when its standby is activated", function()
        lives(coordinator.life, LIVES / 2)
    end)

    it("keeps the promise when its catalog has lost a promotion that is hard to see", function()
        for seed = 1, LIVES / 10 do
            local _, world = run.life(seed, { ordeal = "successor_made_a_standby" })
            assert.is_nil(world.promise.broken or world.broken)
        end
    end)

    it("is never armed where a minor release lets commits through at its start", function()
        local broken, world = run.life(1, { version = 150010 })
        assert.equal("the pair is not in sync again", broken)
        assert.is_nil(world.catalog.pair.armed_name)
    end)

    for _, mutant in ipairs(mutants) do
        it(("shows when rule %d is broken: %s"):format(mutant.rule, mutant.name), function()
            assert.is_truthy(life_that_shows(mutant), "no life has shown it")
        end)
    end
end)
