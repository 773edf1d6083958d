--- Many handovers: those of a wave at the same time, one wave after the other.
local mr = require("moonrise")
local cluster = require("lib.cluster")
local handover = require("lib.handover")
local stop_requests = require("lib.stop_requests")
local term = require("lib.term")

local M = {}

local function hand_over(ctx, pair, opts, progress)
    if stop_requests.asked() then
        return nil, mr.error("cancelled", "not begun", { instance = cluster.name(pair.primary),
            hint = "its roles are as they were; run this again for the rest" })
    end
    local times, err = handover.run(ctx, pair, {
        max_lag_bytes = opts.replay_lag,
        progress = function(stage)
            progress:update(pair.content, ("content %d: %s"):format(pair.content, stage))
        end,
    })
    if not times then
        err.instance = err.instance or cluster.name(pair.primary)
    end
    return times, err
end

local function run_wave(ctx, wave, run)
    local failures = 0
    local results = mr.parallel(wave, run.opts.batch, function(pair)
        return hand_over(ctx, pair, run.opts, run.progress)
    end)
    for i, pair in ipairs(wave) do
        pair.result = results[i]
        if results[i].error then
            failures = failures + 1
            term.error(results[i].error)
        else
            term.info("content %d: %s, writers stalled %s", pair.content, run.handed_over,
                term.duration(results[i].stall_ms))
        end
    end
    return failures
end

--- Hands the pairs over, and leaves what came of each in its `result` (handover.run's times, or
--- {error}). Each pair that was begun is brought to an end, so that it is in one of its two good
--- states.
---@param ctx table {env, cat, agents}
---@param waves table[][] lists of pairs as the catalog has them
---@param opts {batch: integer, replay_lag: number?, no_progress: boolean?, sequential: boolean?}
--- the command's options
---@param handed_over string what is said of a pair that was
---@return integer failures
function M.run(ctx, waves, opts, handed_over)
    local progress = term.progress({ off = opts.no_progress, sequential = opts.sequential })
    local run = { opts = opts, progress = progress, handed_over = handed_over }
    local failures = 0
    stop_requests.between("Stop before the next pair", function()
        for _, wave in ipairs(waves) do
            failures = failures + run_wave(ctx, wave, run)
        end
    end)
    progress:finish()
    return failures
end

--- A pair that was to be handed over, for machines.
---@param pair table
---@param wave integer
---@return table
function M.as_json(pair, wave)
    local result = pair.result or {}
    return { content = pair.content, primary = pair.mirror.dbid, wave = wave,
             stall_ms = result.stall_ms, error = result.error and tostring(result.error) }
end

return M
