local ledger = require("lib.ledger")

describe("ledger", function()
    local book

    before_each(function()
        book = ledger.new()
        for _, outcome in ipairs({ "acknowledged", "refused", "unknown", "acknowledged" }) do
            book:record(book:take(), outcome)
        end
    end)

    it("is sound when exactly the acknowledged rows are there, the unknown ones either way",
        function()
        assert.is_true(ledger.sound(book:compare({ [1] = 1, [4] = 1 })))
        assert.is_true(ledger.sound(book:compare({ [1] = 1, [3] = 1, [4] = 1 })))
    end)

    it("finds an acknowledged row that is missing", function()
        local result = book:compare({ [1] = 1 })
        assert.same({ 4 }, result.missing)
        assert.is_false(ledger.sound(result))
    end)

    it("finds a refused row that is there", function()
        local result = book:compare({ [1] = 1, [2] = 1, [4] = 1 })
        assert.same({ 2 }, result.ghosts)
        assert.is_false(ledger.sound(result))
    end)

    it("finds rows that are there twice, and rows nobody wrote", function()
        local result = book:compare({ [1] = 2, [4] = 1, [99] = 1 })
        assert.same({ 1 }, result.twice)
        assert.same({ 99 }, result.strangers)
        assert.is_false(ledger.sound(result))
    end)

    it("counts rows without an outcome as unknown", function()
        book:take()
        assert.equal(2, book:compare({ [1] = 1, [4] = 1 }).unknown)
    end)

    it("takes one outcome for each row", function()
        assert.has_error(function()
            book:record(1, "refused")
        end)
    end)
end)
