--- The catalog's SQL for the coordinator's own pair (SAFETY.md, rule 8): the record on a majority
--- of the hosts, and pairs that confirm their epochs after the standby was activated.

local catalog = require("tests.lib.catalog")
local place_of = require("tests.lib.place")

local must, value, refused, pair = catalog.must, catalog.value, catalog.refused, catalog.pair

describe("catalog:", function()
    local token, coordinator

    setup(catalog.open)
    teardown(place_of.close_all)

    before_each(function()
        token, coordinator = catalog.fresh()
    end)

    describe("the coordinator", function()
        local HOSTS = '["h32", "h33", "h0"]'

        local function facts(hosts, epoch)
            return ('{"majority": {"epoch": %s, "hosts": %s}}'):format(epoch, hosts)
        end

        local function reserve()
            return value(("epoch_reserve(%s, -1, 'out')"):format(coordinator))
        end

        for fn, call in pairs({
            mirror_down = "mirror_down(%s, -1, 'gone', '%s')",
            out_of_sync = "out_of_sync(%s, -1, 'gone', null, '%s')",
        }) do
            local function try(json)
                return ("select " .. call):format(coordinator, json)
            end

            it("is released by " .. fn .. " only with a record on a majority of the hosts",
                function()
                catalog.arm(coordinator, -1)
                local epoch = reserve()
                for _, json in ipairs({ "{}", '{"majority": ""}', '{"majority": "h32"}',
                    '{"majority": {"hosts": 4, "epoch": 1}}', facts(HOSTS, '"' .. epoch .. '"'),
                    facts("[]", epoch), facts('["h32", "h33"]', epoch),
                    facts('["h32", "h33", "h33"]', epoch), facts('["h32", "h33", "h7"]', epoch),
                }) do
                    refused("MR001", "majority", try(json))
                end
                assert.equal("1ppsu 2mmsu", pair(-1))
                must(try(facts(HOSTS, epoch)))
                assert.matches("^1ppnu", pair(-1))
                assert.equal(epoch, value(
                    ("select data -> 'majority' ->> 'epoch' from journal where kind = '%s'")
                        :format(fn)))
            end)

            it("is not released by " .. fn .. " after something else has happened", function()
                catalog.arm(coordinator, -1)
                local epoch = reserve()
                refused("MR003", "the hosts have recorded epoch", try(facts(HOSTS, epoch - 1)))
                reserve()
                refused("MR003", "the hosts have recorded epoch", try(facts(HOSTS, epoch)))
                assert.equal("1ppsu 2mmsu", pair(-1))
            end)
        end

        it("gets no other way to be released", function()
            catalog.arm(coordinator, -1)
            refused("MR001", "taken back by out_of_sync",
                ("select mirror_up(%s, -1, 'x')"):format(coordinator))
            refused("MR001", "in sync", ("select instance_remove(%s, 2)"):format(coordinator))
        end)

        it("takes an epoch for an order only by what it has seen", function()
            local epoch = reserve()
            refused("MR003", "has changed since epoch",
                ("select epoch_reserve(%s, -1, 'x', %d)"):format(coordinator, epoch - 1))
            value(("epoch_reserve(%s, -1, 'x', %s)"):format(coordinator, epoch))
        end)
    end)

    describe("after an activation a pair", function()
        local known, barred

        -- An instance's word as its host gives it.
        local function word(more)
            local w = { valid = true, epoch = known, order = "start", marked = false,
                        standby = false, timeline = 1, barred = barred }
            for key, item in pairs(more or {}) do
                w[key] = item
            end
            return ([[{"valid": %s, "epoch": %d, "order": "%s", "marked": %s, "standby": %s,
                "timeline": %s, "barred": %s}]])
                :format(w.valid, w.epoch, w.order, w.marked, w.standby, w.timeline, w.barred)
        end

        local function confirm(primary, mirror, loss)
            local words = {}
            if primary then
                table.insert(words, ('"3": %s'):format(word(primary)))
            end
            if mirror then
                mirror.standby = mirror.standby ~= false
                table.insert(words, ('"4": %s'):format(word(mirror)))
            end
            return ("select pair_confirm(%s, 0, '{%s}', %s)"):format(token,
                table.concat(words, ", "), loss and "'" .. loss .. "'" or "null")
        end

        local function bar(seen)
            return value(("bar_reserve(%s, 0, %d)"):format(token, seen or 0))
        end

        local function unconfirmed()
            return value("select unconfirmed from pair_state where content = 0")
        end

        before_each(function()
            catalog.arm(token, 0)
            known = tonumber(value("select epoch from pair_state where content = 0"))
            value(("activated(%s, 'the coordinator is gone')"):format(coordinator))
            barred = bar()
        end)

        it("is unconfirmed, with a new epoch; the coordinator's own is not", function()
            assert.equal(tostring(known), unconfirmed())
            assert.equal("t", value("select epoch > unconfirmed from pair_state where content = 0"))
            assert.equal("1", value("select count(*) from pair_state where unconfirmed > 0"))
            value(("activated(%s, 'again')"):format(coordinator))
            assert.equal(tostring(known), unconfirmed())
            refused("MR004", "the lease of content -1", "select activated(null, 'x')")
            refused("MR002", "not held", ("select activated(%s, 'x')"):format(token))
        end)

        it("is neither released nor promoted, nor given any order but to stop", function()
            for _, call in ipairs({
                "mirror_down(%s, 0, 'x')", "out_of_sync(%s, 0, 'x')", "mirror_up(%s, 0, 'x')",
                "promote(%s, 0, 4, '{}')", "promote(%s, 0, 4, '{}', 'a loss, in writing')",
                "hand_over(%s, 0, '{\"shutdown_end\": \"0/5\"}')", "epoch_reserve(%s, 0, 'x')",
                "instance_remove(%s, 4)",
            }) do
                refused("MR001", "has not confirmed its epochs", "select " .. call:format(token))
            end
            assert.equal("3ppsu 4mmsu", pair(0))
            value(("lease_drop(%s)"):format(token))
            value(("epoch_reserve(%s, 0, 'x')"):format(catalog.lease(0, "stop")))
        end)

        it("gets an epoch above all that may be on its way, to bar its instances with", function()
            assert.is_true(tonumber(barred) > known + 10000)
            assert.equal(barred, bar(known + 5))
            local higher = tonumber(bar(barred + 500))
            assert.is_true(higher > barred + 500)
            value(("lease_drop(%s)"):format(token))
            token = catalog.lease(0, "stop")
            value(("epoch_reserve(%s, 0, 'x')"):format(token))
            assert.is_true(tonumber(bar()) > higher)
            refused("MR004", "is out of reach",
                ("select bar_reserve(%s, 0, 9223372036854775807)"):format(token))
            refused("MR002", "does not hold the watcher's lease", "select bar_reserve(null, 0, 1)")
            must(confirm({ barred = bar() }, { barred = bar() }))
            refused("MR003", "is confirmed", ("select bar_reserve(%s, 0, 1)"):format(token))
        end)

        -- What primary (dbid 3) and mirror (4) say, as far as it is not the start they had at the
        -- catalog's own epoch, and what the pair is then.
        local NEWER = {
            { "nothing happened that the catalog does not know", {}, {}, "3ppsu 4mmsu" },
            { "an order for the primary is new", { epoch = 1, order = "release" }, {},
              "3ppnu 4mmnu" },
            { "an order for the mirror is new", {}, { epoch = 1, order = "name" }, "3ppnu 4mmnu" },
            { "the mirror was marked", {}, { epoch = 2, marked = true, standby = false },
              "3ppnu 4mmnu" },
            { "the mirror was promoted, the old primary is marked", { epoch = 2, marked = true },
              { epoch = 1, order = "promote", standby = false }, "3mpnd 4pmnu" },
            { "the mirror was promoted and has got other orders since",
              { epoch = 2, marked = true }, { epoch = 5, order = "stop", standby = false },
              "3mpnd 4pmnu" },
            { "the mirror was promoted, the old primary was not reached", {},
              { epoch = 1, order = "promote", standby = false }, "3mpnd 4pmnu" },
            { "the mirror was promoted, the old primary fenced before",
              { epoch = 1, order = "fence" }, { epoch = 2, order = "arm", standby = false },
              "3mpnd 4pmnu" },
            { "the old primary is a standby already", { epoch = 4, order = "recover",
              standby = true }, { epoch = 5, order = "arm", standby = false }, "3mpnd 4pmnu" },
        }
        for _, case in ipairs(NEWER) do
            it("is confirmed: " .. case[1], function()
                for _, w in ipairs({ case[2], case[3] }) do
                    w.epoch = known + (w.epoch or 0) + (w.epoch and 10 or 0)
                end
                local epoch = tonumber(must(confirm(case[2], case[3]))[1].pair_confirm)
                assert.is_true(epoch > case[2].epoch and epoch > case[3].epoch)
                assert.equal(case[4], pair(0))
                assert.is_nil(unconfirmed())
                local switched = case[4]:match("^3m") ~= nil
                assert.equal(switched and tostring(epoch) or "0",
                    value("select role_epoch from pair_state where content = 0"))
                assert.equal(switched and "1" or "0", value("select count(*) from journal where " ..
                    "kind = 'promote' and (data ->> 'epoch')::bigint = " .. epoch))
                value(("epoch_reserve(%s, 0, 'x')"):format(token))
            end)
        end

        local UNPROVEN = {
            { "one host is silent", {}, nil },
            { "the other one is", nil, {} },
            { "an epoch is not valid", {}, { valid = false } },
            { "both are marked", { epoch = 1, marked = true }, { epoch = 2, marked = true } },
            { "a promotion may be on its way", {}, { epoch = 1, order = "promote" } },
            { "somebody else has promoted the mirror", {}, { epoch = 1, order = "name",
              standby = false } },
            { "the old primary got later orders and no mark", { epoch = 3 },
              { epoch = 1, order = "promote", standby = false } },
            { "somebody has made a promoted mirror a standby", {}, { epoch = 2, timeline = 2 } },
            { "the same, and its primary is promoted", { epoch = 3, timeline = 2 },
              { epoch = 2, timeline = 2 } },
            { "nobody can tell the mirror's timeline", {}, { epoch = 2, timeline = "null" } },
            { "the primary was not barred", { barred = "null" }, {} },
            { "the mirror was barred before something else was ordered", {}, { barred = 7 } },
            { "both are standbys", { epoch = 1, standby = true }, { epoch = 2 } },
        }
        for _, case in ipairs(UNPROVEN) do
            it("stays as it is: " .. case[1], function()
                for _, w in pairs({ case[2] or false, case[3] or false }) do
                    if w then
                        w.epoch = known + (w.epoch or 0)
                    end
                end
                refused("MR001", "it is not proven which instance is its primary",
                    confirm(case[2], case[3]))
                refused("MR001", "not proven", confirm(case[2], case[3], "  "))
                assert.equal("3ppsu 4mmsu", pair(0))
                assert.equal(tostring(known), unconfirmed())
                must(confirm(case[2], case[3], "ops: the disk is dust"))
                assert.equal("3ppnu 4mmnu", pair(0))
                assert.equal("ops: the disk is dust",
                    value("select data ->> 'accept_loss' from journal order by id desc limit 1"))
            end)
        end

        it("is, with a loss accepted, what the one host that answers can tell", function()
            must(confirm(nil, { epoch = known + 7, order = "promote", standby = false }, "ops"))
            assert.equal("3mpnd 4pmnu", pair(0))
        end)

        it("without a mirror is confirmed by its primary's word", function()
            local other = catalog.lease(1)
            catalog.add(other, 1, "p", 6002)
            value(("activated(%s, 'again')"):format(coordinator))
            barred = value(("bar_reserve(%s, 1, %d)"):format(other, known + 500))
            local call = ("select pair_confirm(%s, 1, '{%%s}')"):format(other)
            refused("MR001", "dbid 5 has no valid epoch", call:format(""))
            refused("MR001", "marked", call:format('"5": ' .. word({ marked = true })))
            refused("MR001", "others may be on their way",
                call:format('"5": ' .. word({ barred = "null" })))
            must(call:format('"5": ' .. word({ epoch = known + 500 })))
            assert.equal("t", value(("select epoch > %d from cluster_state"):format(known + 500)))
        end)

        it("is not confirmed by nonsense, nor without a lease, and only once", function()
            refused("MR004", "no words of hosts",
                ("select pair_confirm(%s, 0, '{\"3\": {\"epoch\": \"x\"}}')"):format(token))
            refused("MR004", "is out of reach", confirm({ epoch = known + 2000000000 }, {}))
            refused("MR002", "does not hold the watcher's lease",
                "select pair_confirm(null, 0, '{}')")
            local epoch = must(confirm({}, {}))[1].pair_confirm
            assert.equal(epoch, must(confirm({}, {}))[1].pair_confirm)
            assert.equal(epoch, must(confirm(nil, nil))[1].pair_confirm)
        end)
    end)
end)
