--- The record of the coordinator's pair while the cluster gets other hosts. Its standby, whose
--- catalog may lack that, asks the hosts that it knows.
local copy = require("tests.lib.copy")
local hosts_record = require("lib.hosts_record")
local mr = require("moonrise")
local records_of = require("tests.sim.records")

local SEEN = 60

-- Content 0's mirror moves from h3 to h4.
local function instances(mirrors_host)
    return { { dbid = 1, content = -1, role = "p", mode = "s", hostname = "h1" },
             { dbid = 2, content = -1, role = "m", mode = "s", hostname = "h2" },
             { dbid = 3, content = 0, role = "p", hostname = "h1" },
             { dbid = 4, content = 0, role = "m", hostname = mirrors_host } }
end

local MOVED = { dbid = 4, hostname = "h4" }

local function subsets(hosts, size)
    local list = {}
    for bits = 0, 2 ^ #hosts - 1 do
        local set = {}
        for i, host in ipairs(hosts) do
            if math.floor(bits / 2 ^ (i - 1)) % 2 == 1 then
                table.insert(set, host)
            end
        end
        if #set == size then
            table.insert(list, set)
        end
    end
    return list
end

describe("hosts_record: a cluster that gets other hosts", function()
    local records, away, ctx

    before_each(function()
        records, away = {}, {}
        for _, host in ipairs({ "h1", "h2", "h3" }) do
            records[host] = { epoch = 50, mode = "s", coordinator = 1, standby = 2,
                              catalog_epoch = SEEN }
        end
        -- From the days when it belonged to the cluster.
        records.h4 = copy(records.h1, { epoch = 40 })
        ctx = { env = { name = "spec" }, sysid = "7",
            agents = { call = function(_, host, op, args)
                if away[host] then
                    return nil, mr.error("timeout", host .. " does not answer")
                end
                local ok, answer = pcall(records_of[op], records, host, args)
                return ok and answer or nil, not ok and mr.error("stale", "newer") or nil
            end },
            cat = {
                instances = function()
                    return instances("h3")
                end,
                state = function()
                    return { epoch = SEEN, sysid = "7" }
                end,
                pair_state = function()
                    return { epoch = 50 }
                end,
            } }
    end)

    local function cut_off(hosts)
        away = {}
        for _, host in ipairs(hosts) do
            away[host] = true
        end
    end

    -- What the transition is told.
    local function same(facts)
        return facts
    end

    local function joining(hosts_away)
        cut_off(hosts_away)
        return hosts_record.joining(ctx, MOVED, same)
    end

    -- What a standby that knows h1, h2 and h3, and the catalog up to SEEN, takes for in sync.
    local function says_in_sync(hosts)
        local newest, far
        for _, host in ipairs(hosts) do
            local record = records[host]
            far = far or record.catalog_epoch > SEEN
            if not newest or record.epoch > newest.epoch
                or record.epoch == newest.epoch and record.mode == "n" then
                newest = record
            end
        end
        return newest.mode == "s" and not far
    end

    it("is not activated by those that it had, once it was released by those that it has",
        function()
        mr.main(function()
            local first = copy(records)
            for _, hosts_away in ipairs({ {}, { "h1" }, { "h2" } }) do
                records = copy(first)
                assert(joining(hosts_away))
                local before = copy(records)
                for _, told in ipairs(subsets({ "h1", "h2", "h4" }, 2)) do
                    records = copy(before)
                    for _, host in ipairs(told) do
                        records_of.record_write(records, host, { epoch = 70, mode = "n",
                            coordinator = 1, standby = 2, catalog_epoch = 70 })
                    end
                    for _, asked in ipairs(subsets({ "h1", "h2", "h3" }, 2)) do
                        assert.is_false(says_in_sync(asked), table.concat(told) .. " told, " ..
                            table.concat(asked) .. " asked")
                    end
                end
            end
        end)
    end)

    it("is not activated by five that it had, once it was released by the three that are left",
        function()
        mr.main(function()
            local names, gone = { "h1", "h2", "h3", "h4", "h5" }, {}
            for _, host in ipairs(names) do
                records[host] = copy(records.h1)
            end
            ctx.cat.instances = function()
                local list = instances("h3")
                for dbid, host in pairs({ [5] = "h4", [6] = "h5" }) do
                    if not gone[dbid] then
                        table.insert(list, { dbid = dbid, content = 1, role = "m",
                                             hostname = host })
                    end
                end
                return list
            end
            for _, step in ipairs({ { dbid = 5, away = { "h4", "h5" } },
                                    { dbid = 6, away = { "h3" } } }) do
                cut_off(step.away)
                assert(hosts_record.leaving(ctx, step.dbid, same))
                gone[step.dbid] = true
            end
            for _, host in ipairs({ "h1", "h2" }) do
                records_of.record_write(records, host, { epoch = 70, mode = "n",
                    coordinator = 1, standby = 2, catalog_epoch = 70 })
            end
            for _, asked in ipairs(subsets(names, 3)) do
                assert.is_false(says_in_sync(asked), table.concat(asked) .. " asked")
            end
        end)
    end)

    it("writes the record anew when the coordinator's pair has changed in between", function()
        mr.main(function()
            local told = {}
            assert.equal("done", hosts_record.joining(ctx, MOVED, function(facts)
                table.insert(told, facts.majority.epoch)
                return #told == 2 and "done" or nil,
                    mr.error("busy", "something happened", { sqlstate = "MR003" })
            end))
            assert.same({ 50, 50 }, told)
            local tries = 0
            assert.is_nil(hosts_record.joining(ctx, MOVED, function()
                tries = tries + 1
                return nil, mr.error("refused", "no", { sqlstate = "MR001" })
            end))
            assert.equal(1, tries)
        end)
    end)

    it("names those that have the record, which are a majority of both", function()
        mr.main(function()
            local facts = assert(joining({ "h1" }))
            table.sort(facts.majority.hosts)
            assert.same({ epoch = 50, catalog_epoch = SEEN + 1000, hosts = { "h2", "h3", "h4" } },
                facts.majority)
        end)
    end)

    it("does not get them when too few answer, of those or of these, or not the new one",
        function()
        mr.main(function()
            for _, hosts_away in ipairs({ { "h1", "h2" }, { "h2", "h3" }, { "h4" } }) do
                local facts, err = joining(hosts_away)
                assert.is_nil(facts)
                assert.equal("refused", err.code)
                assert.matches("the cluster gets no other hosts", err.message)
                assert.matches(hosts_away[1] .. " does not answer", err.message)
            end
        end)
    end)
end)
