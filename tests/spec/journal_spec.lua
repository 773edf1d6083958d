--- The watcher's journal while there is no coordinator: no row is lost on its way through the file.
local journal = require("lib.journal")
local mr = require("moonrise")

local place_of = require("tests.lib.place")

local function line_of(text)
    return mr.json_encode({ kind = "watch", text = text })
end

describe("a journal", function()
    local place

    setup(function()
        place = place_of.new()
    end)

    teardown(place_of.close_all)

    -- Loads `file` into a list of texts; `meanwhile` runs with each row. nil refuses the row.
    local function loaded_from(file, meanwhile)
        local texts = {}
        mr.main(function()
            local book = journal.open({ file = file, catalog = function() end })
            local cat = { journal = function(_, _, entry)
                if meanwhile(book, entry) == false then
                    return nil
                end
                table.insert(texts, entry.text)
                return true
            end }
            mr.check(book:load(cat))
            book:close(10000)
        end)
        return texts
    end

    it("loads what it can read and keeps what it cannot", function()
        local file = place:write("torn", line_of("one") .. "\n" .. line_of("lost"):sub(1, 9)
            .. "\n" .. line_of("two") .. "\n")
        assert.same({ "one", "two" }, loaded_from(file, function() end))
        assert.is_nil((mr.stat(file)))
        assert.equals(line_of("lost"):sub(1, 9) .. "\n", mr.read_file(file .. ".unreadable"))
    end)

    it("keeps in order what the catalog does not take", function()
        local file = place:write("refused", line_of("one") .. "\n" .. line_of("two") .. "\n"
            .. line_of("three") .. "\n")
        assert.same({ "one" }, loaded_from(file, function(_, entry)
            return entry.text ~= "two"
        end))
        assert.equals(line_of("two") .. "\n" .. line_of("three") .. "\n", mr.read_file(file))
    end)

    it("loses no row that comes while it loads", function()
        local file = place:write("busy", line_of("one") .. "\n")
        assert.same({ "one" }, loaded_from(file, function(book)
            book:add("watch", { text = "late" })
            mr.queue():pop(200) -- long enough for an append that does not wait for its turn
        end))
        local text = mr.check(mr.read_file(file))
        assert.matches('"late"', text, 1, true)
        assert.is_nil(text:find("one", 1, true))
    end)
end)
