"""Names and values. Each list is cut into a part for training and one for tests, which share no entry."""

from __future__ import annotations

from typing import Literal

Split = Literal["train", "test"]

_WORDS: dict[str, tuple[str, str]] = {
    "name": (
        "Nora Omar Lucia Felix Greta Ivan Maya Tobias Zoe Karim Alma Bruno Celia Dario Elif Frank Hugo Irene Jonas "
        "Katya Leon Mona Nils Olga Pablo Quinn Rosa Samir Tessa Ugo Vera Walter Xenia Yusuf Anita Boris Clara Dmitri "
        "Esther Farid Gloria Henrik Isabel Jakob Kira Lars Marta Nadia Oskar Petra Rahul Selma Timo Ursula Viktor "
        "Wanda Yara Zoran Amir Bianca",
        "Agnes Basil Carmen Derek Edith Fabio Gwen Hassan Ingrid Jasper Kenji Lydia Milan Nina Otto Priya Ralph Sonia "
        "Tariq Una Vincent Wilma Yvette Zane Astrid Bjorn Corinne Dalia Emil Freya",
    ),
    "city": (
        "Oslo Rome Lima Cairo Bonn Turin Porto Accra Quito Delhi Lyon Basel Seoul Dakar Split Leeds Kyoto Miami "
        "Tunis Riga Perth Havana Boston Malaga Zurich Nairobi Toronto Krakow Dublin Athens",
        "Tampa Ghent Sofia Osaka Bergen Fresno Nantes Lahore Gdansk Austin Odessa Verona Manila Denver Cusco",
    ),
    "food": (
        "soup,pancakes,lasagna,curry,tacos,dumplings,risotto,salad,omelette,noodles,pizza,stew,burritos,quiche,falafel,"
        "meatballs,porridge,gnocchi,paella,kebab",
        "sushi,ravioli,goulash,waffles,couscous,chili,ramen,moussaka,fishcakes,pierogi",
    ),
    "colour": (
        "red,green,yellow,purple,brown,white,orange,turquoise,grey,beige,silver,pink",
        "blue,black,golden,crimson,violet,teal",
    ),
    "day": (
        "Monday,Tuesday,Thursday,Saturday,the 3rd,the 8th,the 12th,the 17th,the 21st,the 26th,next week",
        "Wednesday,Friday,Sunday,the 5th,the 10th,the 14th,the 23rd,the 30th",
    ),
    "hour": (
        "seven,half past eight,nine sharp,ten fifteen,noon,two thirty,quarter to four,five,six twenty,midnight",
        "eight,half past nine,eleven,one thirty,quarter past three,four forty,half past six",
    ),
    "brand": (
        "Larkson,Beltrano,Quillex,Mondero,Tavish,Orvane,Pellicom,Wexley,Harrowby,Zintec,Calloway,Drummel,Fernhall,"
        "Ostrander,Kestrel,Lumina",
        "Brindle,Corvant,Vallmora,Stanmore,Ellipso,Rundgren,Tamarind,Norwood,Paxley",
    ),
    "thing": (
        "kettle,lamp,backpack,bicycle,camera,rug,mirror,toaster,guitar,tent,printer,blender,jacket,watch,suitcase,"
        "radio,bookshelf,heater,drill,teapot",
        "vacuum cleaner,umbrella,sofa,keyboard,microwave,telescope,mattress,scooter,coffee grinder,wardrobe",
    ),
    "plan": (
        "boat trip,cooking class,museum tour,tennis match,picnic,job interview,dinner party,road trip,piano lesson,"
        "wine tasting,city walk,yoga session",
        "ski weekend,book reading,pottery workshop,concert visit,barbecue,rafting tour,chess evening",
    ),
    "pet": ("kitten,parrot,hamster,turtle,beagle,goldfish,pony,rabbit", "ferret,canary,poodle,gecko,hedgehog,duckling"),
    "course": (
        "Spanish,welding,drawing,accounting,sailing,photography,violin,chess",
        "Korean,carpentry,ballet,statistics,diving,calligraphy",
    ),
    "object": (
        "printer,window,door,lift,tap,carpet,fridge,poster,chair,clock,fence,bench,roof,oven,ladder,curtain,shelf,"
        "alarm,fountain,gate,cable,freezer,sign,statue",
        "radiator,staircase,mailbox,dishwasher,skylight,counter,projector,doorbell,hedge,awning,railing,chimney",
    ),
    "place": (
        "the kitchen,the attic,the garage,the lobby,the garden,the library,the canteen,the office,the station,the "
        "market,the workshop,the gym,the hallway,the courtyard,the cellar,the school",
        "the bakery,the chapel,the warehouse,the playground,the clinic,the theatre,the harbour,the studio,the balcony",
    ),
    "event": (
        "the storm,the power cut,the office party,the train strike,the wedding,the city marathon,the flood,the move,"
        "the school play,the heat wave",
        "the earthquake drill,the summer fair,the audit,the blizzard,the reunion,the election",
    ),
}

# Slots and the kind of value each takes.
_SLOTS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "slots": (
        {
            "home town": "city",
            "meeting place": "city",
            "destination": "city",
            "lunch": "food",
            "favourite dish": "food",
            "order": "food",
            "car colour": "colour",
            "team shirt": "colour",
            "folder": "colour",
            "day off": "day",
            "appointment": "day",
            "delivery date": "day",
            "alarm": "hour",
            "shift start": "hour",
            "pick-up time": "hour",
            "employer": "brand",
            "dentist": "brand",
            "phone company": "brand",
            "landlord": "brand",
            "bank": "brand",
        },
        {
            "place of work": "city",
            "holiday spot": "city",
            "breakfast": "food",
            "dinner": "food",
            "desk": "colour",
            "badge": "colour",
            "exam": "day",
            "rehearsal": "day",
            "bedtime": "hour",
            "departure": "hour",
            "insurance": "brand",
            "gym": "brand",
            "hotel": "brand",
        },
    )
}


def words(kind: str, split: Split) -> list[str]:
    """Give the entries of one kind for training or for tests, in a fixed order."""
    text = _WORDS[kind][split == "test"]
    return [one.strip() for one in (text.split(",") if "," in text else text.split())]


def slots(split: Split) -> dict[str, str]:
    """Give the slots of a split and the kind of value each takes."""
    return dict(_SLOTS["slots"][split == "test"])


def kinds() -> list[str]:
    """Name the kinds of words there are."""
    return list(_WORDS)
